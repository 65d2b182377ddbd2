"""LiteRT on the CPU: ``ai_edge_litert``, else ``tflite_runtime`` (the only one with wheels for 32-bit Arm).

Imports the runtime when a model is loaded. An import proves nothing: tflite-runtime 2.14 imports beside numpy 2 and
then fails, so a runtime counts only when it has run a tiny model.
"""

from __future__ import annotations

import base64
import functools
import importlib
import importlib.metadata
import time
from types import ModuleType
from typing import Any

import numpy as np

from agent.devices.tensors import NAMES, Found, agree, check_inputs
from agent.errors import InferenceError, ModelLoadError, RuntimeUnavailable, one_line
from agent.hal import ModelFile, Run
from agent.hal.device import Tensors

MODULES = ("ai_edge_litert", "tflite_runtime")
# y = x + x, FP32 [n, 4]: one ADD, made from the TFLite schema (tests/contract/tiny.py makes it again).
TINY = base64.b64decode(
    "GAAAAFRGTDMAAA4AGAAUABAADAAIAAQADgAAABQAAAAcAAAAIAAAABgBAAADAAAAAQAAAAQAAADw/v//AAAAAAAAAAABAAAAEAAAAAwAFAAQ"
    "AAwACAAEAAwAAAAQAAAAUAAAAFQAAABYAAAAAQAAABQAAAAAAA4AFAAAABAADAALAAQADgAAABAAAAAAAAALDAAAABAAAABQ////AQAAAAEA"
    "AAACAAAAAAAAAAAAAAABAAAAAQAAAAEAAAAAAAAAAgAAAEwAAAAEAAAA0P///wwAAAAUAAAAGAAAAAIAAAD/////BAAAAAEAAAB5AAAAAgAA"
    "AAEAAAAEAAAAFAAQAAwAAAAAAAgAAAAAAAAABAAUAAAADAAAABQAAAAYAAAAAgAAAP////8EAAAAAQAAAHgAAAACAAAAAQAAAAQAAAABAAAA"
    "CAAAAAQABAAEAAAA"
)


def prove() -> str:
    """The version and name of the runtime that ran a model; any exception otherwise."""
    package = runtime().__name__.partition(".")[0]
    return f"{importlib.metadata.version(package.replace('_', '-'))} ({package})"


@functools.cache
def runtime() -> ModuleType:
    """The first interpreter module that runs a model here; RuntimeUnavailable says why there is none."""
    failures = []
    for package in MODULES:
        try:
            module = importlib.import_module(f"{package}.interpreter")
            _try(module)
        except Exception as error:
            failures.append(f"{package}: {one_line(error)}")
        else:
            return module
    raise RuntimeUnavailable("no LiteRT runtime works here: " + "; ".join(failures))


def _try(module: ModuleType) -> None:
    interpreter = module.Interpreter(model_content=TINY, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(0, np.ones((1, 4), np.float32))
    interpreter.invoke()
    if interpreter.get_tensor(1).tolist() != [[2.0, 2.0, 2.0, 2.0]]:
        raise RuntimeUnavailable("computed 1 + 1 wrongly")


class LiteRtSession:
    """A model in a TFLite interpreter with its default delegate (XNNPACK); see ``hal.Session``."""

    def __init__(self, model: ModelFile) -> None:
        """ModelLoadError for a file that does not load or fit; RuntimeUnavailable without a runtime."""
        module = runtime()
        try:
            self._interpreter: Any = module.Interpreter(model_path=str(model.path), num_threads=model.threads)
            self._interpreter.allocate_tensors()
        except Exception as error:
            raise ModelLoadError(
                f"LiteRT does not load {model.path.name}: {one_line(error)}; "
                "convert it again with built-in operators only and pack a new version"
            ) from error
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self.inputs = agree(model.inputs, [found(detail) for detail in inputs], "input")
        self.outputs = agree(model.outputs, [found(detail) for detail in outputs], "output")
        self._input_ids = [(spec, detail["index"]) for spec, detail in zip(self.inputs, inputs, strict=True)]
        self._output_ids = [(detail["name"], detail["index"]) for detail in outputs]
        as_stored = all(
            tuple(detail["shape"]) == spec.concrete()
            for spec, detail in zip(self.inputs, inputs, strict=True)
        )
        self._batch: int | None = 1 if as_stored else None  # None: resize before the next run

    def run(self, tensors: Tensors) -> Run:
        """See ``hal.Session.run``. A batch other than the last one's resizes the model, which takes time."""
        if self._interpreter is None:
            raise InferenceError("the session is closed; open the model again")
        batch = check_inputs(self.inputs, tensors)
        started = time.perf_counter()
        try:
            if batch != self._batch:
                self._resize(batch)
            for spec, index in self._input_ids:
                self._interpreter.set_tensor(index, tensors[spec.name])
            self._interpreter.invoke()
            outputs = {name: self._interpreter.get_tensor(index) for name, index in self._output_ids}
        except Exception as error:
            raise InferenceError(f"LiteRT failed: {one_line(error)}") from error
        seconds = time.perf_counter() - started
        return Run(outputs, seconds, seconds)

    def _resize(self, batch: int) -> None:
        self._batch = None  # stays so when the model cannot be resized
        for spec, index in self._input_ids:
            self._interpreter.resize_tensor_input(index, spec.concrete(batch))
        try:
            self._interpreter.allocate_tensors()
        except RuntimeError as error:
            if str(error):
                raise
            raise MemoryError(f"no memory for the tensors of a batch of {batch}") from error
        self._batch = batch

    def close(self) -> None:
        """See ``hal.Session.close``."""
        self._interpreter = None


def found(detail: dict[str, Any]) -> Found:
    """A tensor as the interpreter describes it; ModelLoadError for a type that cannot be served."""
    # Complex types have no place in the protocol's datatypes.
    kind = np.dtype(detail["dtype"])
    if kind.kind in "SO":
        raise ModelLoadError(
            f"tensor {detail['name']!r} holds strings; they are served from ONNX models only: export it as ONNX, or "
            "leave the text processing out"
        )
    dtype = NAMES.get(kind)
    if dtype is None:
        raise ModelLoadError(
            f"tensor {detail['name']!r} is a {kind}; only {', '.join(NAMES.values())} can be served"
        )
    signature = detail["shape_signature"]
    shape = signature if len(signature) else detail["shape"]
    return Found(detail["name"], dtype, tuple(None if size == -1 else int(size) for size in shape))
