"""ONNX Runtime on the CPU.

Imports onnxruntime when a model is loaded. Spinning is off: with it, two threads burn a whole core for about 20 ms
after every run, which is energy that no profile of the model alone would show.
"""

from __future__ import annotations

import base64
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.devices.tensors import Found, agree, check_inputs
from agent.errors import DeviceMismatch, InferenceError, ModelLoadError, TensorError, one_line
from agent.hal import ModelFile, Run
from agent.hal.device import Tensors

# From 1.29 on the released wheels tell their maker about every process and session (microsoft/onnxruntime#27379); a
# node tells nobody but its operator. Read once, when the runtime is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

PROVIDER = "CPUExecutionProvider"
# y = x + x, FP32 [n, 4]: opset 13, IR 8, made with onnx.helper (tests/contract/tiny.py makes it again).
TINY = base64.b64decode(
    "CAgSADpECg4KAXgKAXgSAXkiA0FkZBIGZG91YmxlWhQKAXgSDwoNCAESCQoDEgFuCgIIBGIUCgF5Eg8KDQgBEgkKAxIBbgoCCARCBAoAEA0="
)
DTYPES = {
    "tensor(bool)": "BOOL", "tensor(int8)": "INT8", "tensor(uint8)": "UINT8", "tensor(int16)": "INT16",
    "tensor(uint16)": "UINT16", "tensor(float16)": "FP16", "tensor(int32)": "INT32", "tensor(uint32)": "UINT32",
    "tensor(float)": "FP32", "tensor(int64)": "INT64", "tensor(uint64)": "UINT64", "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}  # fmt: skip


def prove() -> str:
    """The version of the runtime, once it has loaded a model; any exception otherwise."""
    import onnxruntime

    load(TINY, threads=1)
    return str(onnxruntime.__version__)


class OnnxSession:
    """A model in ONNX Runtime; see ``hal.Session``."""

    def __init__(self, model: ModelFile) -> None:
        """ModelLoadError for a file that does not load or fit; DeviceMismatch for another provider."""
        try:
            self._session = load(model.path, model.threads)
        except (ImportError, DeviceMismatch):
            raise
        except Exception as error:  # the runtime's errors share no base class but Exception
            raise ModelLoadError(
                f"ONNX Runtime does not load {model.path.name}: {one_line(error)}; "
                "check it with onnx.checker, export it again and pack a new version"
            ) from error
        self.inputs = agree(model.inputs, [found(node) for node in self._session.get_inputs()], "input")
        self.outputs = agree(model.outputs, [found(node) for node in self._session.get_outputs()], "output")
        self._names = [spec.name for spec in self.outputs]
        self._texts = [spec.name for spec in self.inputs if spec.dtype == "BYTES"]
        self._text_outputs = [spec.name for spec in self.outputs if spec.dtype == "BYTES"]

    def run(self, tensors: Tensors) -> Run:
        """See ``hal.Session.run``."""
        if self._session is None:
            raise InferenceError("the session is closed; open the model again")
        check_inputs(self.inputs, tensors)
        if self._texts:
            tensors = {**tensors, **{name: _texts(name, tensors[name]) for name in self._texts}}
        started = time.perf_counter()
        try:
            arrays = self._session.run(self._names, tensors)
        except Exception as error:
            raise InferenceError(f"ONNX Runtime failed: {one_line(error)}") from error
        seconds = time.perf_counter() - started
        outputs = dict(zip(self._names, arrays, strict=True))
        outputs.update({name: _bytes(outputs[name]) for name in self._text_outputs})
        return Run(outputs, seconds, seconds)

    def close(self) -> None:
        """See ``hal.Session.close``."""
        self._session = None


def load(model: Path | bytes, threads: int) -> Any:
    """An ``InferenceSession`` on the CPU alone. DeviceMismatch for another provider; the runtime's own errors."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = (
        4  # what goes wrong in a run is raised; printed too, clients would fill the log
    )
    # One large request would hold its memory for ever. The C library's own costs as little: 0.12 ms for a ResNet-8 and
    # 5 ms for a MobileNet with or without.
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    source = model if isinstance(model, bytes) else str(model)
    session = onnxruntime.InferenceSession(source, options, providers=[PROVIDER])
    if session.get_providers() != [PROVIDER]:
        raise DeviceMismatch(
            f"asked ONNX Runtime for {PROVIDER}, it runs {session.get_providers()}; "
            "remove other onnxruntime packages from the environment"
        )
    return session


def _texts(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """ONNX's strings are UTF-8; the runtime takes them as ``str``."""
    try:
        return _objects([item.decode() for item in array.reshape(-1)], array.shape)
    except (UnicodeDecodeError, AttributeError):
        raise TensorError(
            f"input {name!r}: ONNX's strings are text, every element must be bytes of UTF-8"
        ) from None


def _bytes(array: NDArray[Any]) -> NDArray[Any]:
    return _objects([item.encode() for item in array.reshape(-1)], array.shape)


def _objects(items: list[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    array = np.empty(len(items), np.object_)
    array[:] = items
    return array.reshape(shape)


def found(node: Any) -> Found:
    """A tensor as ``InferenceSession.get_inputs`` reports it. ModelLoadError for a type that nobody can send."""
    if node.type not in DTYPES:
        raise ModelLoadError(f"tensor {node.name!r} is a {node.type}; only {', '.join(DTYPES)} can be served")
    return Found(
        node.name, DTYPES[node.type], tuple(size if isinstance(size, int) else None for size in node.shape)
    )
