"""What the steps of preparing hand to each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agent.types import OverlayRef, TensorSpec

Array = NDArray[Any]
Arrays = Mapping[str, Array]
Progress = Callable[[str, float], None]
Rules = Literal["cpu", "npu"]


def no_progress(_text: str, _share: float) -> None:
    """For callers without a display."""


@dataclass(frozen=True, slots=True)
class Steps:
    """What integers of a tensor stand for: ``(q - zero_point) * scale``."""

    scale: float
    zero_point: int

    def real(self, array: Array) -> Array:
        return np.asarray((array.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale))

    def integers(self, array: Array, dtype: Any) -> Array:
        limits = np.iinfo(dtype)
        steps = np.rint(array / np.float32(self.scale)) + self.zero_point
        return np.asarray(np.clip(steps, limits.min, limits.max), dtype)


@dataclass(frozen=True, slots=True)
class Source:
    """A model that has been read and checked.

    ``original``: the file as it came. ``model``: what is worked on, ONNX with its weights inside; of an INT8 TFLite
    file the file itself. ``format`` is that of ``model``, ``came_as`` that of ``original``. ``steps``: of inputs and
    outputs that are quantised integers. ``notes``: what was changed, in sentences.
    """

    name: str
    came_as: Literal["onnx", "tflite"]
    format: Literal["onnx", "tflite"]
    quantised: bool
    original: bytes
    original_size: int
    model: bytes
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    steps: Mapping[str, Steps]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Dataset:
    """Samples of a model's inputs, each ``(n, *sample)`` with the batch of 1 in ``sample``; ``labels`` (n,) integers.

    ``origin``: the file, or "random numbers".
    """

    inputs: Arrays
    labels: NDArray[np.int64] | None
    origin: str

    @property
    def count(self) -> int:
        return len(next(iter(self.inputs.values())))

    def head(self, count: int) -> Dataset:
        """The first samples."""
        labels = None if self.labels is None else self.labels[:count]
        return Dataset({name: array[:count] for name, array in self.inputs.items()}, labels, self.origin)


@dataclass(frozen=True, slots=True)
class Quality:
    """How near a variant's answers are to the baseline's, over ``samples``.

    ``error``: root mean square of the difference over that of the baseline's answers; None without a baseline.
    ``agreement``: share of samples with the same largest output, None when the model's output is no vector.
    ``accuracy``: share of right labels, None without labels.
    """

    samples: int
    error: float | None
    agreement: float | None
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class Trial:
    """A quantisation that was tried: how ranges were found, which layers stayed in float, what came of it."""

    method: str
    float_layers: tuple[str, ...]
    quality: Quality


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """``error``: of the model's output when this layer alone is INT8. ``parameters``: numbers in its weights."""

    layer: str
    operator: str
    error: float
    parameters: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model was quantised, and what else was tried, on the calibration data."""

    rules: Rules
    method: str
    float_layers: tuple[str, ...]
    trials: tuple[Trial, ...]
    sensitivity: tuple[Sensitivity, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where operators of a program run: "overlay", "host" (numpy beside it) or "cpu" (a segment of its own)."""

    where: str
    operators: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Made:
    """A variant: its file and everything that model.toml says of it.

    ``outputs``: its golden answers, ``(count, *sample)``. ``atol`` in the outputs' unit.
    """

    name: str
    format: Literal["onnx", "tflite", "npu"]
    precision: Literal["fp32", "fp16", "int8"]
    devices: tuple[str, ...]
    file: str
    data: bytes
    outputs: Arrays
    atol: float
    rtol: float
    quality: Quality
    recipe: Recipe | None = None
    places: tuple[Place, ...] = ()
    overlay: OverlayRef | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A pruned float model, judged on the calibration data.

    ``way``: none, magnitude or channels; ``parameters``: weights that are not zero; ``cpu_ms``: a run on this CPU.
    """

    way: str
    share: float
    parameters: int
    quality: Quality
    cpu_ms: float


@dataclass(frozen=True, slots=True)
class Cost:
    """What a variant costs on a device of a board, as ``placement.profile`` measures it there.

    Times of the device; ``energy_mj`` per inference above idling (None without a meter), ``holding_w`` for keeping it
    loaded. ``energy``: measured, estimated, simulated or missing.
    """

    variant: str
    board: str
    device: str
    kind: str
    backend: str
    simulated: bool
    runs: int
    p50_ms: float
    p99_ms: float
    energy_mj: float | None
    energy: str
    holding_w: float | None


@dataclass(frozen=True, slots=True)
class Request:
    """What the operator asked for. ``targets``: "cpu", "gpu" and names (or folders) of overlays. ``boards``: where to
    measure, as ``board`` of a node's config names them.
    """

    model: Path
    out: Path
    targets: tuple[str, ...]
    calibrate: Path | None = None
    evaluate: Path | None = None
    reference: Path | None = None
    name: str = ""
    version: str = "1.0.0"
    description: str = ""
    licence: str = "unstated"
    boards: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prepared:
    """What came of it. ``baseline``: what qualities compare with; ``evaluated``: on which samples."""

    request: Request
    source: Source
    baseline: str
    evaluated: str
    made: tuple[Made, ...]
    notes: tuple[str, ...] = ()
    costs: tuple[Cost, ...] = ()
    curve: tuple[CurvePoint, ...] = ()
