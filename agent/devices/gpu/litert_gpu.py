"""LiteRT on a GPU: ``ai_edge_litert``'s compiled models with its GPU accelerator alone.

The accelerator (WebGPU on Vulkan in the Linux wheels) chooses the GPU by itself, and tells much of what goes wrong in
its log only: a run on tensors that are too large for a GPU "succeeds" with zeros. So the log is read at every call.
"""

from __future__ import annotations

import importlib.metadata
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from agent.devices.gpu import litert_log
from agent.devices.gpu.gpus import Gpu
from agent.devices.gpu.native_log import captured
from agent.devices.litert_cpu import TINY, found
from agent.devices.tensors import DTYPES, agree, check_inputs
from agent.errors import (
    InferenceError,
    ModelLoadError,
    OverlaidError,
    RuntimeUnavailable,
    one_line,
)
from agent.hal import ModelFile, Run
from agent.hal.device import Tensors
from agent.types import TensorSpec

T = TypeVar("T")
Details = Sequence[dict[str, Any]]
TENSORS = ("FP32", "FP16", "INT32", "INT8", "UINT8", "BOOL")  # what LiteRT's tensor buffers hold
NO_LOAD = "convert it again with built-in operators only and pack a new version"


def prove(gpu: Gpu) -> str:
    """LiteRT's version and the adapter that ran a tiny model; any exception says why not."""
    if gpu.index > 0:
        raise RuntimeUnavailable(
            f"LiteRT chooses among several {gpu.vendor} GPUs by itself; the agent uses it for the first only"
        )
    x, y = TensorSpec("x", "FP32", (-1, 4)), TensorSpec("y", "FP32", (-1, 4))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.tflite"
        path.write_bytes(TINY)
        session = open_session(ModelFile(path, "tflite", (x,), (y,)), gpu)
    for batch in (1, 3):
        ones = np.ones((batch, 4), np.float32)
        if session.run({"x": ones}).outputs["y"].tolist() != (2 * ones).tolist():
            raise RuntimeUnavailable(f"{session.adapter} computed 1 + 1 wrongly")
    session.close()
    return f"{importlib.metadata.version('ai-edge-litert')} ({session.adapter})"


def open_session(model: ModelFile, gpu: Gpu) -> LiteRtGpuSession:
    """Load a TFLite model; all of it runs on ``gpu``.

    ModelLoadError for a file that does not load or fit; DeviceMismatch when operators would not run on the GPU, or
    another one was chosen; OutOfDeviceMemory; DeviceLost without a GPU; ImportError without the runtime.
    """
    return LiteRtGpuSession(model, gpu)


class LiteRtGpuSession:
    """A TFLite model in LiteRT's GPU accelerator; see ``hal.Session``. ``adapter``: the name of what runs it.

    Tensors are those of the model's first subgraph, as on the CPU. Quantised models are computed in floating point:
    their outputs may differ from a CPU's by a step, and golden vectors decide. Times include writing the inputs and
    reading the outputs, because a run returns before the GPU has computed.
    """

    def __init__(self, model: ModelFile, gpu: Gpu) -> None:
        """See ``open_session``."""
        self._path, self._gpu, self.adapter = model.path, gpu, ""
        inputs, outputs = _details(model.path)
        self._file_mb = model.path.stat().st_size / 1e6
        self.inputs = agree(model.inputs, [found(detail) for detail in inputs], "input")
        self.outputs = agree(model.outputs, [found(detail) for detail in outputs], "output")
        for spec in (*self.inputs, *self.outputs):
            if spec.dtype not in TENSORS:
                raise ModelLoadError(
                    f"tensor {spec.name!r} is {spec.dtype}; LiteRT moves {', '.join(TENSORS)} to a GPU: leave this "
                    "variant to the CPU"
                )
        self._stored = [tuple(detail["shape"]) for detail in inputs]
        self._closed = False
        self._model: Any = None  # as long as none is compiled
        self._compile()
        self._signature, self._input_keys, self._output_keys = self._find_signature(inputs, outputs)
        self._in: dict[str, Any] = {}
        self._out: dict[str, Any] = {}
        self._batch: int | None = None  # what the buffers are for; None: make them before the next run
        self._prepare(1)

    def run(self, tensors: Tensors) -> Run:
        """See ``hal.Session.run``. A batch other than the last one's compiles the model anew, which takes time.

        Raises OutOfDeviceMemory and DeviceLost too.
        """
        if self._closed:
            raise InferenceError("the session is closed; open the model again")
        batch = check_inputs(self.inputs, tensors)
        started = time.perf_counter()
        if batch != self._batch:
            self._prepare(batch)
        try:
            outputs = self._native(lambda: self._compute(tensors), InferenceError, "failed", batch)
        except BaseException:
            self._drop()
            raise
        seconds = time.perf_counter() - started
        return Run(outputs, seconds, seconds)

    def close(self) -> None:
        """See ``hal.Session.close``."""
        self._closed = True
        self._drop()

    def _compute(self, tensors: Tensors) -> Tensors:
        for key, spec in zip(self._input_keys, self.inputs, strict=True):
            self._in[key].write(tensors[spec.name])
        self._model.run_by_name(self._signature, self._in, self._out)
        outputs = {}
        for key, spec in zip(self._output_keys, self.outputs, strict=True):
            shape = self._shapes[key]
            outputs[spec.name] = self._out[key].read(math.prod(shape), DTYPES[spec.dtype]).reshape(shape)
        return outputs

    def _compile(self) -> None:
        self._model = self._native(
            lambda: _compiled(self._path), ModelLoadError, "does not load the model", batch=1
        )
        self._sizes = self._stored
        if not self.adapter:
            raise RuntimeUnavailable(
                "LiteRT does not say which GPU it uses; install another release of ai-edge-litert"
            )
        if not self._model.is_fully_accelerated():
            raise litert_log.partial(self._path.name, "")

    def _prepare(self, batch: int) -> None:
        """Kernels and buffers for a batch; the last one's are freed first."""
        self._batch = None  # stays so when it fails
        self._in, self._out = {}, {}
        try:
            if self._model is None:
                self._compile()
            self._native(
                lambda: self._shape(batch), InferenceError, f"does not take a batch of {batch}", batch
            )
        except BaseException:
            self._drop()
            raise
        self._batch = batch

    def _shape(self, batch: int) -> None:
        model, signature = self._model, self._signature
        sizes = [spec.concrete(batch) for spec in self.inputs]
        if sizes != self._sizes:
            for key, shape in zip(self._input_keys, sizes, strict=True):
                model.resize_input_tensor_by_name(signature, key, shape)
            self._sizes = sizes
        details = model.get_output_tensor_details(signature)
        self._shapes = {key: tuple(details[key]["shape"]) for key in self._output_keys}
        self._in = {key: model.create_input_buffer_by_name(signature, key) for key in self._input_keys}
        self._out = {key: model.create_output_buffer_by_name(signature, key) for key in self._output_keys}

    def _drop(self) -> None:
        """Compile anew before the next run: after an error the accelerator may crash."""
        with captured():
            self._in, self._out, self._model, self._batch = {}, {}, None, None

    def _find_signature(self, inputs: Details, outputs: Details) -> tuple[str, list[str], list[str]]:
        """The signature over these tensors, and its names for them: both names and order may be others."""
        for name in self._model.get_signature_list():
            into = _keys(self._model.get_input_tensor_details(name), inputs)
            out = _keys(self._model.get_output_tensor_details(name), outputs)
            if into is not None and out is not None:
                return name, into, out
        raise ModelLoadError(
            f"{self._path.name} has no signature with just its first subgraph's inputs and outputs; {NO_LOAD}"
        )

    def _native(self, call: Callable[[], T], kind: type[OverlaidError], what: str, batch: int) -> T:
        """The call's result; what it logged decides whether it is an error, and which."""
        failure: Exception | None = None
        with captured() as log:
            try:
                result = call()
            except Exception as error:
                failure = error
        chosen = litert_log.adapter(log.text)
        if chosen is not None:
            chosen.check(self._gpu)
            self.adapter = chosen.name
        if failure is None and not litert_log.errors(log.text):
            log.forward(litert_log.notable(log.text))
            return result
        if isinstance(failure, (MemoryError, ImportError)):
            raise failure
        raise litert_log.explained(
            self._path.name, self._gpu, failure, log.text, self._takes(batch), kind, what
        ) from failure

    def _takes(self, batch: int) -> str:
        specs = (*self.inputs, *self.outputs)
        tensors_mb = (
            sum(math.prod(spec.concrete(batch)) * DTYPES[spec.dtype].itemsize for spec in specs) / 1e6
        )
        return f"its file has {self._file_mb:.1f} MB, inputs and outputs of a batch of {batch} {tensors_mb:.1f} MB"


def _compiled(path: Path) -> Any:
    from ai_edge_litert.compiled_model import (
        CompiledModel,
        Environment,
        EnvironmentOptions,
        GpuOptions,
        HardwareAccelerator,
        Options,
    )

    nowhere = str(Path(__file__).parent)  # there are no plugins of NPUs, which need not be tried
    environment = Environment.create(
        options=EnvironmentOptions(compiler_plugin_path=nowhere, dispatch_library_path=nowhere)
    )
    # FP32 as the model's accuracy and golden vectors were made with: FP16, the default of GPUs that have it, overflows
    # at 65504 and differs from one GPU to the next.
    options = Options(hardware_accelerators=HardwareAccelerator.GPU, gpu_options=GpuOptions(enforce_f32=True))
    return CompiledModel.from_file(str(path), environment=environment, options=options)


def _details(path: Path) -> tuple[Details, Details]:
    """Inputs and outputs of the first subgraph, as the interpreter describes them; ModelLoadError."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    try:
        interpreter = Interpreter(
            model_path=str(path),
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        return interpreter.get_input_details(), interpreter.get_output_details()
    except Exception as error:
        raise ModelLoadError(f"LiteRT does not load {path.name}: {one_line(error)}; {NO_LOAD}") from error


def _keys(details: dict[str, Any], wanted: Details) -> list[str] | None:
    """The signature's names of these tensors, in their order; None when it has others."""
    names = {detail["index"]: key for key, detail in details.items()}
    if names.keys() != {detail["index"] for detail in wanted}:
        return None
    return [names[detail["index"]] for detail in wanted]
