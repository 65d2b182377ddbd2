from __future__ import annotations

from dataclasses import replace

from agent.placement.adapt import Look, Outcome, Seen, State, step, verify
from agent.placement.demand import Demand, DeviceState, Node
from agent.types import Budget, Candidate, Measurement

CPU, GPU = Candidate("fp32", "onnx", "cpu"), Candidate("fp16", "onnx", "gpu")


def measurement(candidate: Candidate, ms: float, joules: float, **more: object) -> Measurement:
    values = {"load_s": 0.2, "memory_mb": 10.0, "holding_w": 0.0, "load_j": 0.2, "accuracy": 0.9} | more
    return Measurement(
        candidate, 500, ms, ms, 1.2 * ms, 0.99, joules=joules, energy="measured", joules_sigma=0.0, **values
    )  # type: ignore[arg-type]


SLOW = measurement(CPU, 20.0, 0.02)
FAST = measurement(GPU, 5.0, 0.03, holding_w=0.6, load_s=1.8, load_j=6.0)


class World:
    """Models that are where they were asked to go at the next look, on devices as slow as ``slow`` says."""

    def __init__(self, *demands: Demand, cap_w: float | None = None, rest_w: float | None = 3.0) -> None:
        self.demands = list(demands)
        devices = DeviceState("cpu", "cpu", 4, 4096), DeviceState("gpu", "gpu", 1, 4096)
        self.node = Node(devices, cap_w, rest_w, 0.0)
        self.state, self.now, self.slow, self.rates = State(), 0.0, {}, {}
        self.power_w: float | None = None
        self.metered = True

    def look(self, seconds: float = 1.0) -> Outcome:
        self.now += seconds
        seen, watts = [], 0.0
        held: dict[str, float] = {}
        for demand in self.demands:
            if demand.incumbent is None:
                continue
            m = next(m for m in demand.measurements if m.candidate == demand.incumbent)
            count = round(self.rates.get(demand.model, demand.budget.rate_hz) * seconds)
            run_s = count * m.mean_ms / 1e3 * self.slow.get(demand.incumbent.device, 1.0)
            seen.append(Seen(demand.model, demand.incumbent, count, count, run_s))
            watts += count * (m.joules or 0.0) / seconds
            held[demand.incumbent.device] = max(held.get(demand.incumbent.device, 0.0), m.holding_w or 0.0)
        power = self.power_w if self.power_w is not None else 3.0 + watts + sum(held.values())
        look = Look(self.now, tuple(seen), power if self.metered else None)
        self.state, outcome = step(self.state, self.demands, self.node, look)
        for move in outcome.moves:
            self.demands = [
                replace(d, incumbent=move.candidate) if d.model == move.model else d for d in self.demands
            ]
        return outcome

    def run(self, seconds: int) -> list[tuple[float, str, str]]:
        """What moved: (seconds from now, where to, why)."""
        began, moved = self.now, []
        for _ in range(seconds):
            for move in self.look().moves:
                where = move.candidate.device if move.candidate else "nowhere"
                moved.append((self.now - began, where, move.trigger))
        return moved


def demand(latency_ms: float = 50.0, rate_hz: float = 10.0, **more: object) -> Demand:
    budget = Budget(latency_ms, rate_hz)
    values = {"incumbent": CPU} | more
    return Demand("digits", budget, (SLOW, FAST), **values)  # type: ignore[arg-type]


def test_a_steady_load_moves_nothing() -> None:
    world = World(demand())
    assert world.run(120) == []


def test_a_throttled_device_is_left_after_two_looks() -> None:
    world = World(demand())
    world.run(5)
    world.slow = {"cpu": 3.0}
    moved = world.run(20)
    assert [(where, round(when)) for when, where, _ in moved] == [("gpu", 2)]


def test_the_cap_moves_at_once() -> None:
    world = World(demand(incumbent=GPU, latency_ms=30.0), cap_w=6.0)
    assert [where for _, where, _ in world.run(60)] == ["cpu"]
    world = World(demand(incumbent=CPU, latency_ms=20.0), cap_w=6.0)
    assert [where for _, where, _ in world.run(60)] == ["gpu"]
    world.node = replace(world.node, power_cap_w=3.5)
    assert world.run(60) == [(1.0, "cpu", "cap 6 W -> 3.5 W")]


def test_who_is_late_goes_back_only_to_what_is_quicker() -> None:
    world = World(demand(incumbent=GPU, latency_ms=15.0))  # the CPU takes 24
    world.run(5)
    world.slow = {"gpu": 10.0}
    assert [where for _, where, _ in world.run(5)] == ["cpu"]
    back = next(move for _ in range(100) for move in world.look().moves)
    assert back.candidate == GPU  # believed to be well again
    for z, quick in ((10.0, False), (3.0, True)):
        assert verify(world.state, "digits", GPU, z, world.now)[1] == quick
