"""``overlaid overlay run --on opencl``: a program on an OpenCL device, with the time of each layer."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from agent.cli.bar import meanwhile
from agent.cli.opencl_devices import find_device
from agent.cli.output import one_cell, print_table
from agent.cli.overlay import percent
from agent.cli.views import number
from agent.devices.opencl.cards import find_binary, folder
from agent.devices.opencl.platforms import ClDevice
from agent.devices.parts import open_part
from agent.devices.program import Executed
from agent.errors import KernelBuildFailed
from agent.overlay.graph import Layer
from agent.overlay.program import Part, Program, Segment
from agent.overlay.report import kind_of, macs_of

if TYPE_CHECKING:
    from agent.devices.opencl.times import LayerTime

Arrays = dict[str, NDArray[Any]]


def run_program(
    program: Program, inputs: Arrays, wanted: str | None, binary: Path | None, progress: Any
) -> tuple[Arrays, dict[str, Any]]:
    """The outputs, and what the run took. The first run, in which drivers finish compiling, is not counted.

    ``wanted``: see ``opencl_devices.choose``. Raises UsageError, RuntimeUnavailable, KernelBuildFailed, DeviceLost,
    OutOfDeviceMemory, InferenceError.
    """
    device = find_device(wanted)
    binary = _binary(device, binary)
    from agent.devices.opencl.engine import OpenClEngine

    parts = _Parts(program)
    with meanwhile(progress, f"building the kernels for {device.name}"):
        engine = OpenClEngine(program, device, device.units, binary=binary, profile=True)
    try:
        with meanwhile(progress, f"running on {device.name}"):
            engine.execute([inputs], parts.run)
            parts.seconds = 0.0
            done = engine.execute([inputs], parts.run)
        return done.outputs[0], make_stats(program, device, done, engine.last_profile(), parts.seconds)
    finally:
        engine.close()


def _binary(device: ClDevice, given: Path | None) -> Path | None:
    """A card's is where the agent looks for it, too."""
    if given is not None or device.kind != "accelerator":
        return given
    found, why = find_binary(device, folder())
    if found is None:
        raise KernelBuildFailed(why)
    return found


class _Parts:
    """CPU segments, and how long they took."""

    def __init__(self, program: Program) -> None:
        self._parts = {id(step): open_part(step, 1) for step in program.steps if isinstance(step, Part)}
        self.seconds = 0.0

    def run(self, part: Part, given: Any) -> Any:
        started = time.perf_counter()
        found = self._parts[id(part)](given)
        self.seconds += time.perf_counter() - started
        return found


def make_stats(
    program: Program, device: ClDevice, done: Executed, profile: Sequence[LayerTime], cpu_s: float
) -> dict[str, Any]:
    """Of one run. ``milliseconds``: all kernels, by OpenCL's events, from which layers' and transfers' times are, too.
    ``cpu_ms``: CPU segments. ``overhead_ms``: the rest of the wall time: enqueueing, waiting and host operators."""
    kernels_s = sum(each.seconds for each in profile if each.kind != "transfer")
    transfer_s = sum(each.seconds for each in profile if each.kind == "transfer")
    return {
        "program": program.name,
        "overlay": program.overlay,
        "version": program.version,
        "on": "opencl",
        "device": {key: getattr(device, key) for key in ("name", "platform", "kind", "version", "driver")},
        "milliseconds": 1e3 * kernels_s,
        "transfer_ms": 1e3 * transfer_s,
        "cpu_ms": 1e3 * cpu_s,
        "overhead_ms": 1e3 * max(done.wall_s - kernels_s - transfer_s - cpu_s, 0.0),
        "wall_ms": 1e3 * done.wall_s,
        "macs": program.macs,
        "gmacs_per_s": _gmacs(program.macs, kernels_s),
        "segments": _segments(program, profile, kernels_s),
        "layout": [_times(each.layer, each.seconds, kernels_s) for each in profile if each.kind == "layout"],
    }


def _segments(program: Program, profile: Sequence[LayerTime], kernels_s: float) -> list[dict[str, Any]]:
    segments = [step for step in program.steps if isinstance(step, Segment)]
    spent = {each.layer: each.seconds for each in profile if each.kind not in ("layout", "transfer")}
    of_name = Counter(layer.name for segment in segments for layer in segment.layers)  # which share its time

    def told(layer: Layer) -> dict[str, Any]:
        macs, seconds = macs_of(layer), spent.get(layer.name, 0.0) / of_name[layer.name]
        rate = _gmacs(macs, seconds) if macs else None
        return _times(layer.name, seconds, kernels_s) | {
            "kind": kind_of(layer),
            "macs": macs,
            "gmacs_per_s": rate,
        }

    return [{"layers": [told(layer) for layer in segment.layers]} for segment in segments]


def _times(name: str, seconds: float, kernels_s: float) -> dict[str, Any]:
    """``share``: of the time of all kernels."""
    return {"name": name, "microseconds": 1e6 * seconds, "share": seconds / kernels_s if kernels_s else None}


def _gmacs(macs: int, seconds: float) -> float | None:
    return macs / seconds / 1e9 if seconds > 0 else None


def show(stats: dict[str, Any]) -> None:
    """The same for people: layers and totals."""
    for segment in stats["segments"]:
        print_table(
            ("layer", "kind", "MACs", "us", "GMAC/s", "time"), [_row(each) for each in segment["layers"]]
        )
        print()
    device = stats["device"]
    print(
        f"{one_cell(stats['program'])} on opencl: {stats['milliseconds']:.3f} ms in kernels, "
        f"{number(stats['gmacs_per_s']) or 0} GMAC/s"
    )
    layout_ms = sum(each["microseconds"] for each in stats["layout"]) / 1e3
    cpu = f"CPU segments {stats['cpu_ms']:.3f} ms, " if stats["cpu_ms"] else ""
    print(
        f"of these packing and unpacking {layout_ms:.3f} ms; beside them transfers {stats['transfer_ms']:.3f} ms, {cpu}"
        f"enqueueing and host operators {stats['overhead_ms']:.3f} ms; {stats['wall_ms']:.3f} ms in all"
    )
    print(f"{device['name']} ({device['platform']}), driver {device['driver']}, {device['version']}")


def _row(each: dict[str, Any]) -> tuple[object, ...]:
    name, micros = each["name"][-40:], f"{each['microseconds']:.1f}"
    return name, each["kind"], each["macs"], micros, number(each["gmacs_per_s"]), percent(each["share"])
