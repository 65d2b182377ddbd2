"""A device opens model files; the session it returns runs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from agent.types import DeviceInfo, TensorSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Tensors = Mapping[str, NDArray[np.generic[Any]]]
else:
    Tensors = Mapping


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One variant on disk. ``inputs``/``outputs``: what the manifest promises.

    ``format``: onnx, tflite, npu (a program for an FPGA overlay) or overlay (an overlay with its self-test).
    ``overlay``: the delivered overlay that an npu program needs; None for one that ships with the agent. ``cache``:
    where a runtime may keep what it built for this machine (a GPU's engines and kernels); None: nowhere.
    """

    path: Path
    format: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    threads: int = 1
    overlay: Path | None = None
    cache: Path | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One inference: outputs by name, device time and wall time in seconds (equal on real CPUs).

    ``parts``: of a run on several devices, the seconds on each by kind ("cpu", "fpga"); empty when it used one.
    """

    outputs: Tensors
    device_s: float
    wall_s: float
    parts: Mapping[str, float] = field(default_factory=dict)


class Session(Protocol):
    """A loaded model. Not thread-safe: one caller at a time.

    ``inputs`` and ``outputs`` are the specs that the runtime itself reports (names, dtypes, shapes).
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, tensors: Tensors) -> Run:
        """Run once. Every input must be there, C-contiguous, of the spec's dtype and shape (BYTES: objects, ``bytes``).

        Raises TensorError (does not fit), InferenceError (the runtime failed).
        """
        ...

    def close(self) -> None:
        """Free the model; the session is unusable afterwards."""
        ...


class Device(Protocol):
    """A CPU, GPU or FPGA. ``info.backends`` lists the runtimes that were proved to work by loading a model."""

    @property
    def info(self) -> DeviceInfo:
        """What it is; the first look may take seconds."""
        ...

    def open(self, model: ModelFile, backend: str) -> Session:
        """Load a model with one of ``info.backends``.

        Raises RuntimeUnavailable (no such backend here), ModelLoadError (corrupt file, unsupported operator, or its
        tensors are not those of the manifest), DeviceMismatch (the runtime fell back to another device).
        """
        ...
