"""What OpenCL events tell of a run: seconds of each layer, and how long the device was busy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyopencl as cl

from agent.devices.opencl.plan import Launch
from agent.overlay.graph import Conv, Layer, Pool

NS = 1e-9  # what OpenCL counts in


@dataclass(frozen=True, slots=True)
class LayerTime:
    """Seconds on the device of all samples of a run. ``kind``: conv, depthwise, pool, add; layout (packing inputs and
    unpacking outputs); transfer (upload, download)."""

    layer: str
    kind: str
    seconds: float


UPLOAD, DOWNLOAD = ("upload", "transfer"), ("download", "transfer")


def label(launch: Launch, layers: Sequence[Layer]) -> tuple[str, str]:
    """Name and kind of what a kernel computes."""
    if launch.layer is None:
        return launch.kernel, "layout"
    layer = layers[launch.layer]
    if isinstance(layer, Conv):
        return layer.name, "depthwise" if layer.depthwise else "conv"
    return layer.name, "pool" if isinstance(layer, Pool) else "add"


def seconds(event: cl.Event) -> float:
    """How long a command ran."""
    return float(event.profile.end - event.profile.start) * NS


def total(times: Iterable[tuple[tuple[str, str], float]]) -> list[LayerTime]:
    """Summed by layer, in the order in which layers first come."""
    sums: dict[tuple[str, str], float] = {}
    for key, spent in times:
        sums[key] = sums.get(key, 0.0) + spent
    return [LayerTime(*key, spent) for key, spent in sums.items()]


def busy(spans: Iterable[tuple[int, int]]) -> float:
    """Seconds that are in any of the spans (begin, end) in nanoseconds of one clock."""
    spent, until = 0, 0
    for begin, end in sorted(spans):
        spent += max(end - max(begin, until), 0)
        until = max(until, end)
    return spent * NS
