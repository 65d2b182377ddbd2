"""ONNX Runtime on a GPU, through any of its execution providers.

A provider that cannot run is replaced by the CPU without an error, and so are operators that it does not know. Both are
errors here: see ``assignment``. Loading ends with a run on zeros, so that engines are built and kernels compiled by
then, not by the first request.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.metadata
import logging
import mmap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from agent.devices import building
from agent.devices.gpu import assignment, onnx_errors
from agent.devices.gpu.binding import Binding
from agent.devices.gpu.enginecache import EngineCache, Kept, driver_version, key_of
from agent.devices.gpu.gpus import Gpu
from agent.devices.gpu.onnx_create import create, profile_run
from agent.devices.gpu.providers import Provider, Setup, find
from agent.devices.onnx_cpu import found
from agent.devices.tensors import DTYPES, agree, check_inputs
from agent.errors import (
    DeviceLost,
    DeviceMismatch,
    InferenceError,
    ModelLoadError,
    OutOfDeviceMemory,
    OverlaidError,
    RuntimeUnavailable,
    one_line,
)
from agent.hal import ModelFile, Run
from agent.hal.device import Tensors
from agent.types import TensorSpec

log = logging.getLogger(__name__)

# y = conv(relu(conv(x))), FP32 [n, 1, 4, 4], padded 3x3 kernels of ones: opset 13, IR 8, made with onnx.helper. A
# convolution needs all libraries of a provider (cuDNN), and OpenVINO leaves a single operator to the CPU.
PROOF = base64.b64decode(
    "CAgSADrOAQoiCgF4CgFrEgFhIgRDb252KhEKBHBhZHNAAUABQAFAAaABBwoMCgFhEgFiIgRSZWx1CiIKAWIKAWsSAXkiBENvbnYqEQoEcGFkc0AB"
    "QAFAAUABoAEHEgVwcm9vZiozCAEIAQgDCAMQAUIBa0okAACAPwAAgD8AAIA/AACAPwAAgD8AAIA/AACAPwAAgD8AAIA/WhwKAXgSFwoVCAESEQoD"
    "EgFuCgIIAQoCCAQKAggEYhwKAXkSFwoVCAESEQoDEgFuCgIIAQoCCAQKAggEQgQKABAN"
)
PROVED = np.multiply.outer([5.0, 8.0, 8.0, 5.0], [5.0, 8.0, 8.0, 5.0])  # of a plane of ones


def prove(gpu: Gpu, provider: str) -> str:
    """The runtime's version, once the provider has run a tiny model on ``gpu``; any exception says why not."""
    import tempfile

    import onnxruntime

    x, y = TensorSpec("x", "FP32", (-1, 1, 4, 4)), TensorSpec("y", "FP32", (-1, 1, 4, 4))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "proof.onnx"
        path.write_bytes(PROOF)
        session = open_session(ModelFile(path, "onnx", (x,), (y,)), gpu, provider)
    for batch in (1, 3):
        planes = np.ones((batch, 1, 4, 4), np.float32)
        if session.run({"x": planes}).outputs["y"].tolist() != (PROVED * planes).tolist():
            raise RuntimeUnavailable(f"{provider} computed a convolution wrongly on {gpu.name}")
    session.close()
    package = find(provider).package.replace("_", "-")
    version = str(onnxruntime.__version__)
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, ValueError):
        version += f", {package} {importlib.metadata.version(package)}"
    return version


def open_session(model: ModelFile, gpu: Gpu, provider: str) -> OnnxGpuSession:
    """Load a model; all of it runs on ``gpu``.

    RuntimeUnavailable when the provider does not work here, and why; ModelLoadError for a file that does not load or
    fit; DeviceMismatch, naming the operators, when some would run on the CPU; OutOfDeviceMemory; DeviceLost;
    ImportError without the runtime.
    """
    spec = find(provider)
    if model.cache is None or not spec.engine:
        return OnnxGpuSession(model, gpu, provider, None)
    what, key = f"the {spec.engine} of {model.path.name}", _key(model, gpu, provider, spec)
    with contextlib.ExitStack() as stack:
        try:
            kept = stack.enter_context(
                EngineCache(model.cache / "onnx").hold(
                    key,
                    lambda: building.announce(f"{what}, which another process builds just now"),
                )
            )
        except OSError as error:
            log.warning("building %s every time: %s", what, one_line(error))
            return OnnxGpuSession(model, gpu, provider, None)
        return _open_kept(model, gpu, provider, kept)


def _open_kept(model: ModelFile, gpu: Gpu, provider: str, kept: Kept) -> OnnxGpuSession:
    """With what was built before; when that does not load, once more without."""
    if kept.warm:
        try:
            return OnnxGpuSession(model, gpu, provider, kept)
        except (ModelLoadError, InferenceError) as error:
            engine = find(provider).engine
            log.warning(
                "building the %s of %s again, the kept one fails: %s",
                engine,
                model.path.name,
                one_line(error),
            )
            kept.clear()
    return OnnxGpuSession(model, gpu, provider, kept)


def _key(model: ModelFile, gpu: Gpu, provider: str, spec: Provider) -> str:
    import onnxruntime

    with _read(model.path) as data:
        digest = hashlib.sha256(data).hexdigest()
    options = spec.options(gpu, Setup(None, _quantized(model.path), model.threads))
    version = str(onnxruntime.__version__)
    return key_of(digest, provider, options, version, gpu.name, driver_version(gpu.driver))


def _quantized(path: Path) -> bool:
    """Whether the model has QuantizeLinear or DequantizeLinear: their names stand in the file as they are."""
    with _read(path) as data:
        return data.find(b"QuantizeLinear") >= 0 or data.find(b"DequantizeLinear") >= 0


def _read(path: Path) -> mmap.mmap:
    """The file's bytes. ModelLoadError when there are none."""
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise ModelLoadError(
            f"{path.name} cannot be read ({one_line(error)}); deploy the model again"
        ) from error


class OnnxGpuSession:
    """A model in ONNX Runtime on a GPU; see ``hal.Session``."""

    def __init__(self, model: ModelFile, gpu: Gpu, provider: str, kept: Kept | None) -> None:
        """See ``open_session``; ``kept``: where the provider finds and puts what it builds. InferenceError when the run
        on zeros fails with what was kept."""
        self._name, self._gpu, self._spec = model.path.name, gpu, find(provider)
        warm = kept is not None and kept.warm
        setup = Setup(kept.path if kept else None, _quantized(model.path), model.threads)
        if self._spec.engine and not warm:
            self._announce("")
        self._session = self._create(model.path, gpu, provider, setup)
        self.inputs = agree(model.inputs, [found(node) for node in self._session.get_inputs()], "input")
        self.outputs = agree(model.outputs, [found(node) for node in self._session.get_outputs()], "output")
        texts = [spec.name for spec in (*self.inputs, *self.outputs) if spec.dtype == "BYTES"]
        if texts:
            raise DeviceMismatch(
                f"tensor {texts[0]!r} holds strings, which no GPU takes; place the model on the cpu"
            )
        self._names = [spec.name for spec in self.outputs]
        memory = self._spec.memory
        self._binding = (
            None if memory == "cpu" else Binding(self._session, self.inputs, self.outputs, memory, gpu.index)
        )
        self._check_assignment(lambda at: self._create(model.path, gpu, provider, setup, at))
        self._built = {1}
        self._warm_up(must_run=warm)

    def run(self, tensors: Tensors) -> Run:
        """See ``hal.Session.run``; also raises OutOfDeviceMemory and DeviceLost."""
        if self._session is None:
            raise InferenceError("the session is closed; open the model again")
        batch = check_inputs(self.inputs, tensors)
        if self._spec.per_batch and batch not in self._built:
            self._announce(f" for batches of {batch}")
        started = time.perf_counter()
        try:
            arrays = (
                self._session.run(self._names, tensors)
                if self._binding is None
                else self._binding.run(tensors, batch)
            )
        except Exception as error:  # the runtime's errors share no base class but Exception
            raise onnx_errors.run_failure(error, self._gpu) from error
        seconds = time.perf_counter() - started
        self._built.add(batch)
        return Run(dict(zip(self._names, arrays, strict=True)), seconds, seconds)

    def close(self) -> None:
        """See ``hal.Session.close``."""
        self._binding = self._session = None

    def _create(self, path: Path, gpu: Gpu, provider: str, setup: Setup, profile: Path | None = None) -> Any:
        try:
            return create(path, gpu, provider, setup, profile)
        except (ImportError, OverlaidError):
            raise
        except Exception as error:
            known = onnx_errors.failure(error, gpu, f"loading {path.name}")
            raise known or ModelLoadError(
                f"ONNX Runtime does not load {path.name} with {self._spec.ep}: {one_line(error)}; "
                "check it with onnx.checker, or place it on the cpu"
            ) from error

    def _check_assignment(self, create_at: Callable[[Path], Any]) -> None:
        """A second, profiled session tells what the first one does not: the nodes before ONNX Runtime 1.24, and how
        large the tensors of nodes on the CPU are."""
        nodes = assignment.recorded(self._session)
        if not nodes or assignment.on_cpu(nodes):
            ran, error = self._profiled(create_at)
            if error is None:
                nodes = ran
            elif not nodes:
                raise ModelLoadError(
                    f"{self._name} does not run on zeros, or not with a profile ({one_line(error)}), so nothing tells "
                    "which device runs it; install onnxruntime >= 1.24"
                ) from error
        assignment.check(nodes, self._spec.ep, [find(name).ep for name in self._spec.same_gpu])

    def _profiled(
        self, create_at: Callable[[Path], Any]
    ) -> tuple[tuple[assignment.Node, ...], Exception | None]:
        """See ``profile_run``; a profile that cannot be written or read is a failure, too."""
        try:
            return profile_run(create_at, self._zeros())
        except (OSError, ValueError) as error:
            return (), error

    def _warm_up(self, *, must_run: bool) -> None:
        try:
            self.run(self._zeros())
        except (OutOfDeviceMemory, DeviceLost):
            raise
        except InferenceError as error:
            if must_run:  # what was kept may be damaged
                raise
            log.info("%s does not run on zeros: %s", self._name, error)

    def _zeros(self) -> dict[str, np.ndarray[Any, Any]]:
        return {spec.name: np.zeros(spec.concrete(1), DTYPES[spec.dtype]) for spec in self.inputs}

    def _announce(self, what: str) -> None:
        building.announce(f"the {self._spec.engine} of {self._name}{what}, once for this driver")
