"""Random nodes and the models that share them, for the planner's tests and figures."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from agent.placement.demand import Demand, DeviceState, Node
from agent.types import Budget, Candidate, Measurement, OverlayRef

OVERLAYS = (OverlayRef("npu-small", 1, 8), OverlayRef("npu-large", 1, 16))


def random_instance(models: int, candidates: int, seed: int) -> tuple[tuple[Demand, ...], Node]:
    """``models`` demands with ``candidates`` measured candidates each, and a node: in three of four instances with room
    for most of what is asked, in the others not."""
    rng = random.Random(seed)
    tight = seed % 4 == 3
    devices = [
        DeviceState("cpu", "cpu", parallel=rng.choice((1, 2, 4)), memory_mb=rng.choice((None, 200 * models)))
    ]
    if rng.random() < 0.8:
        devices.append(DeviceState("gpu", "gpu", memory_mb=rng.choice((None, 100 * models))))
    if rng.random() < 0.8:
        devices.append(DeviceState("fpga", "fpga"))
    if rng.random() < 0.3:
        devices.append(DeviceState("fpga1", "fpga"))
    if rng.random() < 0.3:
        devices = [replace(device, slowdown=rng.uniform(0.8, 2.0)) for device in devices]
    demands = tuple(_demand(rng, f"m{index}", models, candidates, devices, tight) for index in range(models))
    rest_w = rng.uniform(2.0, 6.0)
    cap_w = (
        None
        if rng.random() < 0.3
        else rest_w + least_w(demands) * (rng.uniform(0.6, 2.5) if tight else rng.uniform(1.2, 3.0))
    )
    node = Node(tuple(devices), cap_w, rest_w, rng.choice((0.0, 0.05)), rng.choice((1, 1, 2)))
    return demands, node


def least_w(demands: Sequence[Demand]) -> float:
    """About what the models draw that take their least."""
    return sum(min(m.average_w(d.budget.rate_hz) or 0.0 for m in d.measurements) for d in demands)


def _demand(
    rng: random.Random, name: str, models: int, candidates: int, devices: Sequence[DeviceState], tight: bool
) -> Demand:
    work_ms = rng.lognormvariate(1.5, 0.7)  # a run on the CPU
    rate_hz = (
        0.0 if rng.random() < 0.05 else rng.uniform(0.05, 1.6 if tight else 0.8) * 1e3 / work_ms / models
    )
    measurements = []
    for index in range(candidates):
        device = devices[index % len(devices)]
        measurements.append(_measured(rng, f"v{index // len(devices)}", device, work_ms))
    p50s = sorted(m.p50_ms for m in measurements)
    of = rng.randrange(len(p50s)) if tight else len(p50s) * 2 // 3
    budget = Budget(
        latency_p99_ms=p50s[of] * rng.uniform(1.2 if tight else 2.0, 4.0 if tight else 10.0),
        rate_hz=rate_hz,
        power_w=None
        if rng.random() < 0.8
        else (least_w([_only(measurements, rate_hz)]) + 0.01) * rng.uniform(0.8, 3.0),
        min_accuracy=None if rng.random() < 0.6 else rng.uniform(0.9, 0.97),
        priority=rng.choice((0, 0, 0, 1, 2)),
    )
    incumbent = rng.choice(measurements).candidate if rng.random() < 0.6 else None
    rate_seen = None if rng.random() < 0.5 else rate_hz * rng.uniform(0.1, 1.3)
    return Demand(name, budget, tuple(measurements), incumbent=incumbent, rate_hz=rate_seen)


def _only(measurements: Sequence[Measurement], rate_hz: float) -> Demand:
    return Demand("", Budget(1.0, rate_hz), tuple(measurements))


def _measured(rng: random.Random, variant: str, device: DeviceState, work_ms: float) -> Measurement:
    speed, watts, holding_w = {
        "cpu": (1.0, 3.0, 0.02), "gpu": (0.15, 9.0, 1.5), "fpga": (0.4, 2.0, 0.5)
    }[device.kind]  # fmt: skip
    mean_ms = work_ms * speed * rng.uniform(0.6, 1.6)
    joules = mean_ms / 1e3 * watts * rng.uniform(0.7, 1.4)
    parts: tuple[tuple[str, float], ...] = ()
    if device.kind == "fpga" and rng.random() < 0.2:
        parts = (("cpu", mean_ms * 0.2), (device.id, mean_ms * 0.8))
    return Measurement(
        candidate=Candidate(variant, "runtime", device.id),
        runs=1000,
        mean_ms=mean_ms,
        p50_ms=mean_ms * rng.uniform(0.9, 1.0),
        p99_ms=mean_ms * rng.uniform(1.1, 2.0),
        confidence=0.99,
        load_s=rng.uniform(0.1, 2.0),
        memory_mb=rng.uniform(20, 200),
        accuracy=rng.uniform(0.9, 0.99),
        joules=joules,
        energy="measured",
        holding_w=holding_w * rng.uniform(0.8, 1.2),
        joules_sigma=joules * rng.uniform(0.0, 0.1),
        load_j=rng.uniform(0.5, 10.0),
        parts=parts,
        overlay=rng.choice(OVERLAYS) if device.kind == "fpga" else None,
    )
