"""Models for the evaluation, made to fit a board: no files, only the work of their variants and a budget.

Every model has an ONNX variant for the CPU and the GPU, and where the board has an FPGA a program for one of its
overlays. What differs is which device its budget is cut for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from agent.devices.fpga import shipped_overlays
from agent.placement.planning.candidates import VariantInfo
from agent.types import Budget, OverlayRef
from simulator.profile import BoardProfile, Device
from simulator.scenario.files import Load
from simulator.scenario.workload import Workload
from simulator.speed import run_seconds
from simulator.work import Work

OVERLAY_MACS = 14e9  # a second: 55 % of 16 x 16 at 100 MHz; each overlay is that fast for what is made for it
BYTES_PER_MAC = 0.02  # few weights, used often, as in convolutions
Rates = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Cut:
    """What a model's budget is made from. ``kind``: of the device that it is cut for; ``rate_hz``: of the budget;
    ``share``: utilisation of that device at this rate; ``slack``: the latency budget as a multiple of the 99th
    percentile of a queue that is so full."""

    kind: str
    rate_hz: float
    share: float
    slack: float


def model(profile: BoardProfile, name: str, cut: Cut, priority: int = 0, overlay: str = "npu") -> Workload:
    """A model whose requests come at its budget's rate."""
    device = next(d for d in profile.devices if d.kind == cut.kind)
    refs = {ref.id: ref for ref in _overlays(profile)}
    ref = refs.get(overlay)
    macs = _macs(device, ref, cut.share / cut.rate_hz)
    latency_ms = cut.slack * queue_p99(cut.share) * cut.share / cut.rate_hz * 1e3
    budget = Budget(latency_ms, cut.rate_hz, priority=priority)
    plain = VariantInfo("int8", "onnx", "int8", ("cpu", "gpu"), 0.95)
    variants, work = [plain], {"int8": _work(macs)}
    if ref is not None:
        variants.append(VariantInfo("program", "npu", "int8", ("fpga",), 0.95, ref))
        work["program"] = _work(macs, ref)
    return Workload(name, "1", budget, tuple(variants), work, Load(folder=name, budget=budget))


def at_rates(workload: Workload, rates: Rates) -> Workload:
    """The model with requests at these rates: (time in s, requests a second from then on), from 0 on."""
    rate = tuple((float(time), float(value)) for time, value in rates)
    load = Load(folder=workload.name, budget=workload.budget, rate=rate)
    return replace(workload, load=load)


def queue_p99(share: float) -> float:
    """The 99th percentile of the time in a queue with random arrivals and runs of one length, as a multiple of that.

    P(wait > t) falls as share x exp(-a t), where share (exp(a) - 1) = a (Kleinrock, Queueing Systems I, on M/D/1's
    tail).
    """
    low, high = 1e-6, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if share * math.expm1(middle) < middle else (low, middle)
    return 1.0 + max(0.0, math.log(share / 0.01)) / low


def between(draw: Random, bounds: tuple[float, float]) -> float:
    return draw.uniform(*bounds)


def _overlays(profile: BoardProfile) -> Sequence[OverlayRef]:
    fpga = next((d for d in profile.devices if d.overlay is not None), None)
    return shipped_overlays(fpga.overlay.names) if fpga is not None and fpga.overlay is not None else ()


def _macs(device: Device, ref: OverlayRef | None, seconds: float) -> int:
    """What takes so long on the device."""
    low, high = 1e3, 1e12
    for _ in range(80):
        middle = (low + high) / 2
        shorter = (
            run_seconds(device, _work(round(middle), ref if device.overlay is not None else None)) < seconds
        )
        low, high = (middle, high) if shorter else (low, middle)
    return round(low)


def _work(macs: int, ref: OverlayRef | None = None) -> Work:
    nbytes = round(BYTES_PER_MAC * macs)
    if ref is None:
        return Work(macs, nbytes, "int8")
    return Work(macs, nbytes, "int8", ref, macs / OVERLAY_MACS)
