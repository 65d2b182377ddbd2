"""A small board for tests: round numbers, two zones, one device of each kind."""

from __future__ import annotations

from typing import Any

from simulator.faults import Fault, Happening, Timeline
from simulator.physics import Physics
from simulator.profile import Base, BoardProfile, Device, Overlay, Rail, Throttle, Zone

CPU, GPU, FPGA = range(3)
# Zone soc settles at 20 + 5 x (2 + 0.5 + 0.2) = 33.5 C when idle; case at 20 + 2 x 1 = 22 C.
IDLE_W = 2.0 + 0.5 + 1.0 + 0.2


def small_board(jitter: float = 0.0, **changes: Any) -> BoardProfile:
    """``changes``: fields of the profile to replace."""
    common: dict[str, Any] = {"memory_mb": 100, "jitter": jitter, "bandwidth_gb_s": 1.0}
    fields: dict[str, Any] = {
        "name": "small",
        "title": "a small board",
        "supply_w": 100.0,
        "ambient_c": 20.0,
        "base": Base(watts=2.0, zone="soc"),
        "zones": (
            Zone(
                name="soc", r_c_per_w=5.0, c_j_per_c=2.0,
                throttle=(
                    Throttle(at_c=50.0, factor=0.5, hysteresis_c=4.0),
                    Throttle(at_c=70.0, factor=0.25, hysteresis_c=3.0),
                ),
            ),
            Zone(name="case", r_c_per_w=2.0, c_j_per_c=10.0),
        ),
        "devices": (
            Device(
                id="cpu", kind="cpu", name="core", zone="soc", formats=("onnx", "tflite"), idle_w=0.5, active_w=4.0,
                overhead_us=1000.0, load_s=0.5, peak={"fp32": 1.0, "int8": 4.0}, **common,
            ),
            Device(
                id="gpu", kind="gpu", name="card", zone="case", formats=("onnx",), idle_w=1.0, holding_w=3.0,
                active_w=10.0, overhead_us=2000.0, load_s=1.0, peak={"fp16": 20.0}, **common,
            ),
            Device(
                id="fpga", kind="fpga", name="logic", zone="soc", formats=("onnx",), idle_w=0.2, holding_w=0.3,
                active_w=1.0, overhead_us=500.0, load_s=0.25, peak={"int8": 8.0},
                overlay=Overlay(names=("npu", "npu-small"), load_s=0.75, load_j=1.5), **common,
            ),
        ),
        "rails": (
            Rail(name="total", measures=("base", "cpu", "gpu", "fpga"), resolution_w=0.1, rate_hz=10.0),
            Rail(name="card", measures=("gpu",), resolution_w=0.01, rate_hz=100.0),
        ),
    }  # fmt: skip
    return BoardProfile(**(fields | changes))


def happening(
    kind: str, target: str = "", value: float | None = None, at_s: float = 0.0, for_s: float | None = None
) -> Happening:
    """A fault in board time that starts from 0."""
    return Happening.of(Fault(kind=kind, target=target, value=value, at_s=at_s, for_s=for_s), 0.0)


def laws(*happenings: Happening, profile: BoardProfile | None = None, seed: int = 0) -> Physics:
    """The physics of a small board that these faults happen to."""
    profile = profile or small_board()
    return Physics(profile, Timeline(profile, happenings), seed)
