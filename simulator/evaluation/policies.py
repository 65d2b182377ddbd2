"""The policies that are compared, by name. All see what ``simulator.scenario.policy.Policy`` says, and no more.

Those of others decide each model alone, as their authors describe; where two models want an FPGA under different
overlays, the first has it. None of them knows of a node's power cap but ``greedy``, and none sheds a model but
``greedy`` and ``ours``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from agent.placement.adapting.look import Look, Move, Seen
from agent.placement.adapting.order import Step, in_turn
from agent.placement.adapting.slowdown import Slowdown
from agent.placement.demand import Demand, DeviceState, Node
from agent.placement.planning.plan import plan
from agent.types import Candidate, Measurement
from simulator.profile import BoardProfile
from simulator.scenario.policy import NodePolicy, Policy

MOST_BUSY = 0.9  # of a GPU: the rule of thumb
AWAY_S = 30.0  # that the rule stays on the CPU before it tries the GPU again
BUSY_S, RATE_S = 5.0, 10.0  # over which a device's use is averaged, and a rate


class _Simple:
    """Decides model by model; a fresh worker is taken as it comes."""

    probes = False

    def __init__(self) -> None:
        self.reasons: Mapping[str, str] = {}
        self._asked: dict[str, Candidate] = {}

    def look(self, look: Look, demands: Sequence[Demand], node: Node) -> Sequence[Move]:
        self._see(look, demands, node)
        devices = {device.id: device for device in node.devices if not device.lost}
        overlays: dict[str, object] = {}
        steps = []
        for demand in sorted(demands, key=self._turn):
            free = {
                m.candidate: devices[m.candidate.device]
                for m in demand.measurements
                if m.candidate.device in devices and overlays.get(m.candidate.device) in (None, m.overlay)
            }
            there = self._choose(demand, [m for m in demand.measurements if m.candidate in free], free)
            if there is None:
                continue
            if there.overlay is not None:
                overlays[there.candidate.device] = there.overlay
            wanted = {demand.incumbent, self._asked.get(demand.model, demand.incumbent)}
            self._asked[demand.model] = there.candidate
            if wanted != {there.candidate}:
                here = next((m for m in demand.measurements if m.candidate == demand.incumbent), None)
                move = Move(demand.model, there.candidate, "policy", f"as it places {demand.model}")
                steps.append(Step(move, here, there, demand.budget.rate_hz))
        return in_turn(steps)

    def verify(self, model: str, candidate: Candidate, z: float, now: float) -> bool:
        del model, candidate, z, now
        return True

    def failed(self, model: str, candidate: Candidate, why: str) -> None:
        """Tried again at the next look, unless the device is known to be lost by then."""

    def _turn(self, demand: Demand) -> tuple[object, ...]:
        """In this order they may have the FPGA's overlay: who runs before who comes."""
        return demand.incumbent is None, -demand.budget.priority, demand.model

    def _see(self, look: Look, demands: Sequence[Demand], node: Node) -> None:
        """Take in what the look tells."""

    def _choose(
        self, demand: Demand, free: Sequence[Measurement], devices: Mapping[Candidate, DeviceState]
    ) -> Measurement | None:
        """``free``: what it can have, beside those before it; ``devices``: of these."""
        raise NotImplementedError


class Order(_Simple):
    """The first of these kinds of device that takes the model, decided once when it is loaded and kept; decided again
    when the device is lost.

    ``always-*``: one kind, and the CPU for what cannot go there.
    ``auto``: OpenVINO's AUTO: discrete GPU, integrated GPU, other accelerators, CPU (Automatic Device Selection in
    OpenVINO's documentation, table "Device Priority"; with its run-time fallback).
    ``npu-cpu``: ONNX Runtime's automatic selection of execution providers with MAX_EFFICIENCY or MIN_OVERALL_POWER,
    which are the same: an NPU if there is one, else the CPU. An overlay of this project is an NPU.
    """

    def __init__(self, *kinds: str) -> None:
        super().__init__()
        self._kinds = kinds

    def _choose(
        self, demand: Demand, free: Sequence[Measurement], devices: Mapping[Candidate, DeviceState]
    ) -> Measurement | None:
        for m in free:
            if m.candidate == demand.incumbent:
                return m
        return _first(self._kinds, free, devices)


class BusyGpu(_Simple):
    """The rule of thumb "GPU busy over 90 % -> CPU": on the GPU, while it was busy for no more than that in the last
    seconds; then on the CPU, until the rule is tried again."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: deque[tuple[float, float]] = (
            deque()
        )  # (time, busy seconds until then since the one before)
        self._until: float | None = None  # on the CPU

    def _see(self, look: Look, demands: Sequence[Demand], node: Node) -> None:
        del demands
        if self._until is not None and look.now >= self._until:
            self._until = None
            self._seen.clear()
        if not look.seen:
            return
        gpus = {device.id for device in node.devices if device.kind == "gpu"}
        self._seen.append((look.now, sum(each.run_s for each in look.seen if each.candidate.device in gpus)))
        while look.now - self._seen[0][0] > BUSY_S:
            self._seen.popleft()
        seconds = look.now - self._seen[0][0]
        busy_s = sum(busy for time, busy in self._seen if time > self._seen[0][0])
        if self._until is None and seconds >= BUSY_S - 1 and busy_s > MOST_BUSY * seconds:
            self._until = look.now + AWAY_S

    def _choose(
        self, demand: Demand, free: Sequence[Measurement], devices: Mapping[Candidate, DeviceState]
    ) -> Measurement | None:
        del demand
        return _first(("gpu", "cpu") if self._until is None else ("cpu", "gpu"), free, devices)


class Alert(_Simple):
    """ALERT (Wan et al., USENIX ATC 2020), least energy under a latency goal: a Kalman filter on observed over profiled
    time, one "global slowdown factor" for all configurations, predicts each one's latency, and of those that are
    predicted in time the one of least energy is taken, at every look; where none is, the fastest. A switch costs it
    nothing. (A factor for each device was tried on the tuning traces: more requests were late.)
    """

    def __init__(self) -> None:
        super().__init__()
        self._slowdown = Slowdown()
        self._rates = _Rates()

    def _see(self, look: Look, demands: Sequence[Demand], node: Node) -> None:
        del node
        self._rates.see(look)
        self._slowdown = _after(self._slowdown, look.seen, demands)

    def _turn(self, demand: Demand) -> tuple[object, ...]:
        return -demand.budget.priority, demand.incumbent is None, demand.model

    def _choose(
        self, demand: Demand, free: Sequence[Measurement], devices: Mapping[Candidate, DeviceState]
    ) -> Measurement | None:
        del devices

        def predicted_ms(m: Measurement) -> float:
            return m.p99_ms * self._slowdown.mean

        def in_time(m: Measurement) -> bool:
            each_s = m.mean_ms / 1e3 * self._slowdown.mean
            return predicted_ms(m) <= demand.budget.latency_p99_ms and demand.budget.rate_hz * each_s < 1.0

        timely = [m for m in free if in_time(m)]
        if not timely:
            return min(free, key=predicted_ms, default=None)
        rate_hz = self._rates.of(demand)
        return min(timely, key=lambda m: (m.average_w(rate_hz) or 0.0, predicted_ms(m)))


class Greedy:
    """Our planner at every look, for the rates and slowdowns of the moment, as if nothing ran yet: no switch cost, no
    hysteresis, no dwell, no check of what is loaded."""

    probes = False

    def __init__(self) -> None:
        self.reasons: Mapping[str, str] = {}
        self._slowdowns = _Slowdowns()
        self._rates = _Rates()

    def look(self, look: Look, demands: Sequence[Demand], node: Node) -> Sequence[Move]:
        self._slowdowns.see(look, demands, node)
        self._rates.see(look)
        devices = tuple(replace(d, slowdown=self._slowdowns.of(d.id)) for d in node.devices)
        asked = [replace(_unloaded(d), rate_hz=self._rates.of(d)) for d in demands]
        planned = plan(asked, replace(node, devices=devices))
        steps = []
        for demand in demands:
            placed = planned.of(demand.model)
            here = next((m for m in demand.measurements if m.candidate == demand.incumbent), None)
            # Also where nothing changes: an earlier move may be under way still.
            move = Move(demand.model, placed.candidate, "policy", placed.reason)
            steps.append(Step(move, here, placed.measurement, demand.budget.rate_hz))
        return in_turn(steps)

    def verify(self, model: str, candidate: Candidate, z: float, now: float) -> bool:
        del model, candidate, z, now
        return True

    def failed(self, model: str, candidate: Candidate, why: str) -> None:
        """Planned anew at the next look."""


class _Slowdowns:
    """Of each device, from the runs there."""

    def __init__(self) -> None:
        self._known: dict[str, Slowdown] = {}
        self._last: float | None = None

    def of(self, device: str) -> float:
        return self._known.get(device, Slowdown()).mean

    def see(self, look: Look, demands: Sequence[Demand], node: Node) -> None:
        seconds = 0.0 if self._last is None else look.now - self._last
        self._last = look.now
        used = {demand.incumbent.device for demand in demands if demand.incumbent is not None}
        for device in node.devices:
            before = self._known.get(device.id, Slowdown())
            ran = [each for each in look.seen if each.candidate.device == device.id and each.runs]
            if ran:
                self._known[device.id] = _after(before, ran, demands)
            elif device.id not in used:
                self._known[device.id] = before.relaxed(seconds)


def _after(slowdown: Slowdown, seen: Sequence[Seen], demands: Sequence[Demand]) -> Slowdown:
    """After these runs."""
    profiled = {(d.model, m.candidate): m.mean_ms / 1e3 for d in demands for m in d.measurements}
    known = [each for each in seen if (each.model, each.candidate) in profiled]
    expected_s = sum(each.runs * profiled[each.model, each.candidate] for each in known)
    if expected_s <= 0:
        return slowdown
    return slowdown.observed(sum(each.run_s for each in known) / expected_s, sum(each.runs for each in known))


class _Rates:
    """Requests a second of each model, over the last RATE_S."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[tuple[float, int]]] = {}

    def see(self, look: Look) -> None:
        for model in {each.model for each in look.seen}:
            counts = self._seen.setdefault(model, deque())
            counts.append((look.now, sum(each.requests for each in look.seen if each.model == model)))
            while look.now - counts[0][0] > RATE_S:
                counts.popleft()

    def of(self, demand: Demand) -> float:
        """The budget's until two looks have told."""
        counts = self._seen.get(demand.model, deque())
        if len(counts) < 2:
            return demand.budget.rate_hz
        return sum(count for _, count in list(counts)[1:]) / (counts[-1][0] - counts[0][0])


def _unloaded(demand: Demand) -> Demand:
    """As if it ran nowhere and loading cost nothing."""
    return replace(
        demand, incumbent=None, measurements=tuple(replace(m, load_j=None) for m in demand.measurements)
    )


def _first(
    kinds: Sequence[str], free: Sequence[Measurement], devices: Mapping[Candidate, DeviceState]
) -> Measurement | None:
    """On the first of these kinds that has one; of several there the fastest."""
    for kind in (*kinds, "cpu"):
        there = [m for m in free if devices[m.candidate].kind == kind]
        if there:
            return min(there, key=lambda m: m.p99_ms)
    return None


POLICIES: dict[str, Callable[[], Policy]] = {
    "ours": NodePolicy,
    "always-cpu": lambda: Order("cpu"),
    "always-gpu": lambda: Order("gpu"),
    "always-fpga": lambda: Order("fpga"),
    "gpu-90": BusyGpu,
    "auto": lambda: Order("gpu", "fpga"),
    "npu-cpu": lambda: Order("fpga"),
    "alert": Alert,
    "greedy": Greedy,
}
NEEDS = {
    "always-gpu": "gpu",
    "always-fpga": "fpga",
    "gpu-90": "gpu",
}  # without it there is nothing to compare


def fits(name: str, profile: BoardProfile) -> bool:
    """Whether the policy is one for this board."""
    return name not in NEEDS or any(device.kind == NEEDS[name] for device in profile.devices)
