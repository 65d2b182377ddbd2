"""Small quantised ONNX models with random numbers, and ONNX Runtime beside the golden model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from agent.overlay.functional import run_graph
from agent.overlay.graph import Foreign, Graph
from agent.overlay.importers.cut import cut
from agent.overlay.importers.import_onnx import import_onnx

Array = NDArray[Any]
TYPES = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8, "int8": TensorProto.INT8}
MICROSOFT = "com.microsoft"


def _weights_may_be_large() -> bool:
    """x86 without VNNI adds pairs of products in 16 bits, which saturate unless weights keep to 7 bits."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "vnni" in flags or "asimd" in flags


LARGEST = 127 if _weights_may_be_large() else 63


class Net:
    """A model that is put together node by node; ``x`` names what the last node wrote."""

    def __init__(self, seed: int, unsigned: bool = True) -> None:
        self.rng = np.random.default_rng(seed)
        self.dtype = np.dtype(np.uint8 if unsigned else np.int8)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self._count = 0

    def name(self, stem: str) -> str:
        self._count += 1
        return f"{stem}{self._count}"

    def input(self, shape: Sequence[int | str], dtype: Any = None) -> str:
        name = self.name("in")
        kind = TYPES[np.dtype(self.dtype if dtype is None else dtype).name]
        self.inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def constant(self, array: Array | np.generic) -> str:
        name = self.name("c")
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, op: str, inputs: Sequence[str], domain: str = "", **attributes: Any) -> str:
        output = self.name(op.lower())
        self.nodes.append(
            helper.make_node(op, list(inputs), [output], name=output, domain=domain, **attributes)
        )
        return output

    def scale(self, low: float = 0.005, high: float = 0.1) -> np.float32:
        return np.float32(self.rng.uniform(low, high))

    def zero_point(self) -> Array:
        """Any, the ends among them."""
        info = np.iinfo(self.dtype)
        return np.asarray(
            self.rng.choice([info.min, info.max, int(self.rng.integers(info.min, info.max))]), self.dtype
        )

    def steps(self, scale: np.float32 | None = None, zero_point: Array | None = None) -> list[str]:
        """Scale and zero point of an activation, as constants."""
        return [
            self.constant(self.scale() if scale is None else scale),
            self.constant(self.zero_point() if zero_point is None else zero_point),
        ]

    def weights(self, shape: Sequence[int], dtype: Any = np.int8) -> Array:
        if dtype == np.uint8:
            return np.asarray(self.rng.integers(0, 256, shape), np.uint8)
        return np.asarray(self.rng.integers(-LARGEST - 1, LARGEST + 1, shape), np.int8)

    def quantize(self, x: str, steps: Sequence[str]) -> str:
        return self.node("QuantizeLinear", [x, *steps])

    def dequantize(self, x: str, steps: Sequence[str], **attributes: Any) -> str:
        return self.node("DequantizeLinear", [x, *steps], **attributes)

    def model(self, *outputs: str, opset: int = 17) -> onnx.ModelProto:
        """Checked; types and shapes of the outputs are inferred by whoever loads it."""
        values = [helper.make_empty_tensor_value_info(name) for name in outputs]
        graph = helper.make_graph(self.nodes, "net", self.inputs, values, self.constants)
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def random_inputs(model: onnx.ModelProto, rng: np.random.Generator) -> dict[str, Array]:
    """Batch 1. Bytes over their whole range, numbers around zero."""
    constants = {each.name for each in model.graph.initializer}
    made = {}
    for each in model.graph.input:
        if each.name in constants:
            continue
        kind = each.type.tensor_type
        shape = [size.dim_value or 1 for size in kind.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if dtype.kind == "f":
            made[each.name] = np.asarray(rng.standard_normal(shape) * 3, dtype)
        else:
            info = np.iinfo(dtype)
            made[each.name] = np.asarray(rng.integers(info.min, info.max + 1, shape), dtype)
    return made


def runtime(model: bytes, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """ONNX Runtime's outputs: a default session on the CPU, one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def golden(model: bytes, graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The golden model's outputs; what is foreign to the overlay is cut out and left to ONNX Runtime."""

    def foreign(step: Foreign, given: Mapping[str, Array]) -> Mapping[str, Array]:
        return runtime(cut(model, "onnx", step), given)

    return run_graph(graph, inputs, foreign)


def agree(model: onnx.ModelProto, rng: np.random.Generator, runs: int = 2, atol: float = 0.0) -> Graph:
    """Assert that golden model and ONNX Runtime give the same outputs; the graph, to look at."""
    data = model.SerializeToString()
    graph = import_onnx(data, "net")
    for _ in range(runs):
        inputs = random_inputs(model, rng)
        wanted, got = runtime(data, inputs), golden(data, graph, inputs)
        assert list(got) == list(wanted)
        for name, array in wanted.items():
            assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape), name
            if atol:
                np.testing.assert_allclose(got[name], array, rtol=0, atol=atol)
            else:
                np.testing.assert_array_equal(got[name], array, err_msg=name)
    return graph


def kinds(graph: Graph) -> list[str]:
    """The steps by name: layers' and foreign classes, host operators."""
    return [getattr(step, "op", type(step).__name__) for step in graph.steps]
