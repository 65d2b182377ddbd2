"""A node that adaptation looks at: models serve as measured, on devices as slow as it says, and move as told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agent.placement.adapting.adapt import Look, Move, Outcome, Seen, State, failed, step, verify
from agent.placement.demand import Demand, DeviceState, Node
from agent.types import Budget, Candidate, Measurement, OverlayRef

CPU, GPU = Candidate("fp32", "onnx", "cpu"), Candidate("fp16", "onnx", "gpu")
FPGA = Candidate("program", "npu", "fpga")
NPU, SMALL = OverlayRef("npu", 1, 16), OverlayRef("npu-small", 1, 8)
REST_W = 3.0


def measurement(candidate: Candidate, ms: float, joules: float | None, **more: Any) -> Measurement:
    values: dict[str, Any] = {
        "load_s": 0.2,
        "memory_mb": 10.0,
        "holding_w": 0.0,
        "load_j": 0.2,
        "accuracy": 0.9,
    } | more
    energy = "missing" if joules is None else "measured"
    return Measurement(
        candidate, 500, ms, ms, 1.2 * ms, 0.99, joules=joules, energy=energy, joules_sigma=0.0, **values
    )


SLOW = measurement(CPU, 20.0, 0.02)  # 0.2 W at 10/s
FAST = measurement(GPU, 5.0, 0.03, holding_w=0.6, load_s=1.8, load_j=6.0)  # 0.9 W
LEAN = measurement(FPGA, 10.0, 0.005, holding_w=0.3, load_s=0.6, overlay=NPU)  # 0.35 W


def demand(latency_ms: float = 50.0, rate_hz: float = 10.0, **more: Any) -> Demand:
    """On the CPU, unless told otherwise; the latency is what a CPU and a GPU keep."""
    budget = Budget(latency_ms, rate_hz, priority=more.pop("priority", 0))
    values: dict[str, Any] = {"model": "digits", "measurements": (SLOW, FAST), "incumbent": CPU} | more
    return Demand(budget=budget, **values)


class World:
    """``slow``: by device, what runs take as a multiple of the profiled; ``rates``: by model, other than the budget's;
    ``late``: by model, the share of answers that are late; ``other_w``: what others draw; ``metered``: whether a meter
    tells, ``power_w`` what it shows instead of the truth. Moves are done at once, unless they are ``stuck``."""

    def __init__(self, *demands: Demand, cap_w: float | None = None, rest_w: float | None = REST_W) -> None:
        self.demands = list(demands)
        devices = (
            DeviceState("cpu", "cpu", 4, 4096),
            DeviceState("gpu", "gpu", 1, 4096),
            DeviceState("fpga", "fpga", 1, 512),
        )
        self.node = Node(devices, cap_w, rest_w, 0.0)
        self.state, self.now = State(), 100.0
        self.slow: dict[str, float] = {}
        self.rates: dict[str, float] = {}
        self.late: dict[str, float] = {}
        self.other_w = 0.0
        self.power_w: float | None = None
        self.metered, self.stuck = True, False
        self.tried = 0
        self._owed: dict[str, float] = {}

    def place(self, model: str) -> str:
        """The device that it is on; empty when it is shed."""
        incumbent = next(each.incumbent for each in self.demands if each.model == model)
        return incumbent.device if incumbent else ""

    def lose(self, device: str, why: str = "gone") -> None:
        devices = (replace(each, lost=why) if each.id == device else each for each in self.node.devices)
        self.node = replace(self.node, devices=tuple(devices))

    def cap(self, watts: float | None) -> None:
        self.node = replace(self.node, power_cap_w=watts)

    def truth_w(self) -> float:
        """What the node draws on average."""
        held: dict[str, float] = {}
        watts = REST_W + self.other_w
        for each, m in self._running():
            watts += self.rates.get(each.model, each.budget.rate_hz) * (m.joules or 0.0)
            held[m.candidate.device] = max(held.get(m.candidate.device, 0.0), m.holding_w or 0.0)
        return watts + sum(held.values())

    def look(self, seconds: float = 1.0, *, quiet: bool = False) -> Outcome:
        """``quiet``: something has happened; nothing is told of requests."""
        self.now += seconds
        seen = () if quiet else tuple(self._seen(each, m, seconds) for each, m in self._running())
        power_w = self.power_w if self.power_w is not None else self.truth_w()
        look = Look(self.now, seen, power_w if self.metered else None)
        self.state, outcome = step(self.state, self.demands, self.node, look)
        for move in outcome.moves:
            self._carry_out(move)
        return outcome

    def run(self, seconds: int) -> list[tuple[int, str, str]]:
        """What moved: (seconds from now, device, why)."""
        began, moved = self.now, []
        for _ in range(seconds):
            for move in self.look().moves:
                where = move.candidate.device if move.candidate else ""
                moved.append((round(self.now - began), where, move.trigger))
        return moved

    def _running(self) -> list[tuple[Demand, Measurement]]:
        return [(d, m) for d in self.demands for m in d.measurements if m.candidate == d.incumbent]

    def _seen(self, each: Demand, m: Measurement, seconds: float) -> Seen:
        owed = self._owed.get(each.model, 0.0) + self.rates.get(each.model, each.budget.rate_hz) * seconds
        self._owed[each.model] = owed - int(owed)
        run_s = int(owed) * m.mean_ms / 1e3 * self.slow.get(m.candidate.device, 1.0)
        late = round(self.late.get(each.model, 0.0) * int(owed))
        return Seen(each.model, m.candidate, int(owed), int(owed), run_s, late)

    def _carry_out(self, move: Move) -> None:
        if self.stuck:
            return
        if move.candidate is not None:
            z = self.slow.get(move.candidate.device, 1.0)
            lost = next((d.lost for d in self.node.devices if d.id == move.candidate.device), "")
            self.tried += 1
            if lost:
                self.state = failed(self.state, move.model, move.candidate, lost)
                return
            self.state, good = verify(self.state, move.model, move.candidate, z, self.now)
            if not good:
                return
        self.demands = [
            replace(d, incumbent=move.candidate) if d.model == move.model else d for d in self.demands
        ]
