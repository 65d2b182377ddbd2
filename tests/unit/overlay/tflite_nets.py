"""Small INT8 TFLite models with random numbers, and LiteRT beside the golden model."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flatbuffers  # type: ignore[import-untyped, unused-ignore]
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from agent.overlay.functional import run_graph
from agent.overlay.graph import Foreign, Graph
from agent.overlay.importers.cut import cut
from agent.overlay.importers.import_tflite import import_tflite

Array = NDArray[Any]
Steps = tuple[float, int]  # scale and zero point
# Operator → version: those that take INT8.
VERSIONS = {
    "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "ADD": 2, "AVERAGE_POOL_2D": 2, "MAX_POOL_2D": 2,
    "MEAN": 2, "PAD": 2, "RESHAPE": 1, "SOFTMAX": 2, "QUANTIZE": 2, "DEQUANTIZE": 2, "RELU": 2, "LOGISTIC": 2,
    "TRANSPOSE": 2,
}  # fmt: skip
ACTIVATIONS = {"": 0, "RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}


class Net:
    """A model that is put together operator by operator; tensors are known by their index, named "t<index>"."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.inputs: list[int] = []
        self._tensors: list[Any] = []
        self._buffers = [schema.BufferT()]  # by the format's rule the first one is empty
        self._operators: list[Any] = []

    def steps(self, low: float = 0.02, high: float = 0.1) -> Steps:
        return float(np.float32(self.rng.uniform(low, high))), int(self.rng.integers(-128, 128))

    def tensor(self, shape: Sequence[int], steps: Steps | None = None, dtype: str = "INT8") -> int:
        made = schema.TensorT()
        made.name, made.shape, made.buffer = f"t{len(self._tensors)}".encode(), [int(n) for n in shape], 0
        made.type = getattr(schema.TensorType, dtype)
        if steps is not None:
            self._quantise(made, [steps[0]], steps[1], 0)
        self._tensors.append(made)
        return len(self._tensors) - 1

    def input(self, shape: Sequence[int], steps: Steps | None = None, dtype: str = "INT8") -> int:
        quantised = self.steps() if steps is None and dtype == "INT8" else steps
        self.inputs.append(self.tensor(shape, quantised, dtype))
        return self.inputs[-1]

    def constant(self, array: Array, scales: Sequence[float] = (), axis: int = 0) -> int:
        index = self.tensor(array.shape, None, str(array.dtype).upper())
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(array.tobytes(), np.uint8)
        self._buffers.append(buffer)
        self._tensors[index].buffer = len(self._buffers) - 1
        if len(scales):
            self._quantise(self._tensors[index], scales, 0, axis)
        return index

    def _quantise(self, tensor: Any, scales: Sequence[float], zero_point: int, axis: int) -> None:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = [float(scale) for scale in scales]
        tensor.quantization.zeroPoint = [zero_point] * len(scales)
        tensor.quantization.quantizedDimension = axis

    def scale(self, tensor: int) -> float:
        return float(self._tensors[tensor].quantization.scale[0])

    def operator(self, kind: str, inputs: Sequence[int], output: int, options: Any = None) -> int:
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = list(VERSIONS).index(kind), list(inputs), [output]
        if options is not None:
            made.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
            made.builtinOptions = options
        self._operators.append(made)
        return output

    def weights(self, shape: Sequence[int], axis: int, x: int) -> list[int]:
        """Weights with a scale for each output, which are along ``axis``, and a bias."""
        count = shape[axis]
        scales = self.rng.uniform(0.001, 0.01, count).astype(np.float32)
        values = self.rng.integers(-127, 128, shape).astype(np.int8)
        bias = self.rng.integers(-2000, 2000, count).astype(np.int32)
        steps = (np.float32(self.scale(x)) * scales).tolist()
        return [self.constant(values, scales.tolist(), axis), self.constant(bias, steps)]

    def model(self, *outputs: int) -> bytes:
        graph, model = schema.SubGraphT(), schema.ModelT()
        graph.name, graph.tensors, graph.operators = b"main", self._tensors, self._operators
        graph.inputs, graph.outputs = self.inputs, list(outputs)
        model.version, model.buffers, model.subgraphs = 3, self._buffers, [graph]
        model.operatorCodes = []
        for kind, version in VERSIONS.items():
            code = schema.OperatorCodeT()
            code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
            code.version = version
            model.operatorCodes.append(code)
        builder = flatbuffers.Builder(1 << 12)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


def convolution(net: Net, x: int, shape: Sequence[int], output: Sequence[int], **options: Any) -> int:
    """``shape``: outputs, kernel height and width, inputs; for a depthwise one 1, height, width, outputs."""
    made = (
        schema.DepthwiseConv2DOptionsT()
        if shape[0] == 1 and "multiplier" in options
        else schema.Conv2DOptionsT()
    )
    kind = "CONV_2D"
    if "multiplier" in options:
        kind, made.depthMultiplier = "DEPTHWISE_CONV_2D", options["multiplier"]
    made.strideH, made.strideW = options.get("stride", (1, 1))
    made.dilationHFactor, made.dilationWFactor = options.get("dilation", (1, 1))
    made.padding = getattr(schema.Padding, options.get("padding", "VALID"))
    made.fusedActivationFunction = ACTIVATIONS[options.get("activation", "")]
    constants = net.weights(shape, 3 if kind.startswith("D") else 0, x)
    return net.operator(kind, [x, *constants], net.tensor(output, net.steps()), made)


def pool(net: Net, kind: str, x: int, kernel: Sequence[int], output: int, **options: Any) -> int:
    made = schema.Pool2DOptionsT()
    made.filterHeight, made.filterWidth = kernel
    made.strideH, made.strideW = options.get("stride", kernel)
    made.padding = getattr(schema.Padding, options.get("padding", "VALID"))
    made.fusedActivationFunction = ACTIVATIONS[options.get("activation", "")]
    return net.operator(kind, [x], output, made)


def interpreter(model: bytes) -> Any:
    """LiteRT as a node runs it, one thread; what it logs about itself stays away."""
    from ai_edge_litert.interpreter import Interpreter

    with _quiet():
        made = Interpreter(model_content=model, num_threads=1)
        made.allocate_tensors()
    return made


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Standard error of this process closed for a while: LiteRT writes to it past Python."""
    with contextlib.redirect_stderr(io.StringIO()), open(os.devnull, "wb") as nothing:  # noqa: PTH123
        kept = os.dup(2)
        os.dup2(nothing.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def runtime(made: Any, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """LiteRT's outputs by name."""
    for detail in made.get_input_details():
        made.set_tensor(detail["index"], inputs[detail["name"]])
    made.invoke()
    return {each["name"]: np.array(made.get_tensor(each["index"])) for each in made.get_output_details()}


def random_inputs(made: Any, rng: np.random.Generator) -> dict[str, Array]:
    found = {}
    for each in made.get_input_details():
        found[each["name"]] = (
            rng.integers(-128, 128, each["shape"]).astype(np.int8)
            if each["dtype"] == np.int8
            else (rng.standard_normal(each["shape"]) * 2).astype(np.float32)
        )
    return found


def golden(model: bytes, graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The golden model's outputs; what is foreign to the overlay is cut out and left to LiteRT."""

    def foreign(step: Foreign, given: Mapping[str, Array]) -> Mapping[str, Array]:
        return runtime(interpreter(cut(model, "tflite", step)), given)

    return run_graph(graph, inputs, foreign)


def steps_apart(model: bytes, rng: np.random.Generator, runs: int = 3) -> tuple[Graph, int]:
    """The graph, and how many steps golden model and LiteRT are apart at most."""
    made, graph = interpreter(model), import_tflite(model, "net")
    worst = 0
    for _ in range(runs):
        inputs = random_inputs(made, rng)
        wanted, got = runtime(made, inputs), golden(model, graph, inputs)
        assert set(got) == set(wanted)
        for name, array in wanted.items():
            assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape), name
            if array.dtype == np.int8:
                worst = max(worst, int(np.abs(array.astype(int) - got[name]).max()))
            else:
                np.testing.assert_allclose(got[name], array, rtol=1e-6, atol=0)
    return graph, worst
