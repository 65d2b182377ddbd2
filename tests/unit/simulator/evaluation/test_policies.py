"""What each policy does with what it is told: looks and profiles made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from agent.placement.adapting.look import Look, Seen
from agent.placement.demand import Demand, DeviceState, Node
from agent.types import Budget, Candidate, Measurement, OverlayRef
from simulator.evaluation.policies import POLICIES, fits
from simulator.evaluation.traces import board
from simulator.scenario.policy import Policy

NPU, OTHER = OverlayRef("npu", 1, 16), OverlayRef("npu-small", 1, 8)
NODE = Node((DeviceState("cpu", "cpu"), DeviceState("gpu", "gpu"), DeviceState("fpga", "fpga")), rest_w=3.0)
CPU, GPU, FPGA = (Candidate("v", "runtime", device) for device in ("cpu", "gpu", "fpga"))


def measured(
    candidate: Candidate,
    mean_ms: float,
    joules: float,
    holding_w: float = 0.0,
    overlay: OverlayRef | None = None,
) -> Measurement:
    return Measurement(
        candidate, 500, mean_ms, mean_ms, 1.2 * mean_ms, 0.99, load_s=1.0, memory_mb=1.0, accuracy=0.9,
        joules=joules, energy="simulated", holding_w=holding_w, load_j=5.0, joules_sigma=0.0, overlay=overlay,
    )  # fmt: skip


# At 10/s: CPU 0.4 W, FPGA 0.5 W, GPU 0.9 W; at 20/s 0.8, 0.6 and 1.1 W.
WAYS = (measured(CPU, 20, 0.04), measured(GPU, 5, 0.02, 0.7), measured(FPGA, 10, 0.01, 0.4, NPU))
MODEL = Demand("m", Budget(latency_p99_ms=30, rate_hz=20), WAYS)


class Told:
    """A policy at work: its moves are carried out before the next look, a second later."""

    def __init__(self, name: str, *demands: Demand, node: Node = NODE) -> None:
        self.policy: Policy = POLICIES[name]()
        self.demands, self.node, self.now = list(demands), node, 0.0
        self.look()

    def look(self, seen: Sequence[Seen] = ()) -> Mapping[str, Candidate | None]:
        moves = self.policy.look(Look(self.now, tuple(seen), 3.5), self.demands, self.node)
        self.now += 1.0
        to = {move.model: move.candidate for move in moves}
        self.demands = [replace(d, incumbent=to.get(d.model, d.incumbent)) for d in self.demands]
        return self.at

    def serve(self, seconds: int, rate: int, slow: float = 1.0) -> Mapping[str, Candidate | None]:
        """``slow``: what runs take on the CPU, as a multiple of what was profiled."""
        for _ in range(seconds):
            self.look([self._seen(demand, rate, slow) for demand in self.demands])
        return self.at

    @property
    def at(self) -> Mapping[str, Candidate | None]:
        return {demand.model: demand.incumbent for demand in self.demands}

    def lose(self, device: str, why: str = "gone") -> None:
        devices = tuple(replace(d, lost=why) if d.id == device else d for d in self.node.devices)
        self.node = replace(self.node, devices=devices)

    @staticmethod
    def _seen(demand: Demand, rate: int, slow: float) -> Seen:
        assert demand.incumbent is not None
        m = next(m for m in demand.measurements if m.candidate == demand.incumbent)
        each_s = m.mean_ms / 1e3 * (slow if demand.incumbent == CPU else 1.0)
        return Seen(demand.model, demand.incumbent, rate, rate, rate * each_s)


@pytest.mark.parametrize(
    ("name", "first", "then"),
    [
        ("always-cpu", CPU, None), ("always-gpu", GPU, CPU), ("always-fpga", FPGA, CPU), ("auto", GPU, FPGA),
        ("npu-cpu", FPGA, CPU),
    ],
)  # fmt: skip
def test_fixed_orders_take_the_first_device_and_when_it_is_lost_the_next(
    name: str, first: Candidate, then: Candidate | None
) -> None:
    told = Told(name, MODEL)
    assert told.at == {"m": first}
    assert told.serve(20, rate=3, slow=5.0) == {"m": first}  # whatever is seen
    told.lose(first.device)
    assert told.look() == {"m": then or first}


def test_an_overlay_stays_with_who_runs_and_others_go_to_the_cpu() -> None:
    small = Demand("a", MODEL.budget, (*WAYS[:2], replace(WAYS[2], overlay=OTHER)))
    told = Told("npu-cpu", MODEL)
    told.demands.append(replace(small, budget=replace(small.budget, priority=3)))
    assert told.look() == {"m": FPGA, "a": CPU}
    told.demands = told.demands[1:]
    assert told.look() == {"a": CPU}  # decided once
    same = Told("npu-cpu", MODEL, replace(small, measurements=WAYS))
    assert same.at == {"m": FPGA, "a": FPGA}


def test_the_rule_of_thumb_leaves_a_gpu_that_is_busy_and_tries_it_again() -> None:
    told = Told("gpu-90", MODEL)
    assert told.serve(20, rate=170) == {"m": GPU}  # 85 %
    assert told.serve(1, rate=199) == {"m": GPU}  # not for long yet
    assert told.serve(8, rate=199) == {"m": CPU}
    assert told.serve(20, rate=20) == {"m": CPU}
    assert told.serve(15, rate=20) == {"m": GPU}


def test_alert_takes_least_energy_of_what_it_predicts_in_time() -> None:
    told = Told("alert", MODEL)
    assert told.serve(12, rate=10) == {"m": CPU}
    assert told.serve(12, rate=20) == {"m": FPGA}
    tight = replace(MODEL, budget=replace(MODEL.budget, latency_p99_ms=2.0))
    assert Told("alert", tight).at == {"m": GPU}  # the fastest, where none is in time


def test_alerts_one_factor_is_that_of_the_device_that_serves() -> None:
    told = Told("alert", MODEL)
    told.serve(12, rate=10)
    assert told.serve(1, rate=10, slow=3.0) == {
        "m": GPU
    }  # all are taken for slow, even the FPGA for too slow
    seen = {told.serve(1, rate=10, slow=3.0)["m"] for _ in range(10)}
    assert CPU in seen  # the GPU is not slow, so the CPU is not taken for it any more


def test_alert_takes_nothing_that_cannot_keep_up() -> None:
    many = replace(MODEL, budget=replace(MODEL.budget, rate_hz=60))
    assert Told("alert", many).serve(12, rate=10) == {"m": FPGA}


def test_greedy_follows_every_rate_at_once_and_keeps_the_cap() -> None:
    told = Told("greedy", MODEL)
    assert told.serve(12, rate=10) == {"m": CPU}
    assert told.serve(12, rate=20) == {"m": FPGA}
    assert told.serve(12, rate=10) == {"m": CPU}
    capped = Told("greedy", MODEL, node=replace(NODE, power_cap_w=3.7))
    assert capped.serve(12, rate=10) == {"m": FPGA}  # the CPU draws 0.8 W at the budget's rate
    assert Told("greedy", MODEL, node=replace(NODE, power_cap_w=3.1)).at == {"m": None}


def test_greedy_flees_a_slow_device_and_comes_back_when_it_has_forgotten() -> None:
    told = Told("greedy", MODEL)
    told.serve(12, rate=10)
    assert told.serve(4, rate=10, slow=3.0) == {"m": FPGA}
    assert told.serve(60, rate=10) == {"m": CPU}


def test_nothing_is_asked_for_twice() -> None:
    for name in ("auto", "alert", "gpu-90"):
        told = Told(name, MODEL)
        assert not told.policy.look(Look(told.now, (), 3.5), told.demands, told.node)


def test_a_move_that_is_not_wanted_any_more_is_taken_back() -> None:
    policy, serving = POLICIES["alert"](), replace(MODEL, incumbent=CPU)
    seen = Seen("m", CPU, 10, 10, 10 * 0.020)
    (away,) = policy.look(Look(0.0, (seen,)), [serving], NODE)
    assert away.candidate == FPGA  # at the budget's rate
    (back,) = policy.look(Look(1.0, (seen,)), [serving], NODE)
    assert back.candidate == CPU  # at the rate that was seen, while the move was under way


def test_policies_are_compared_only_on_boards_that_have_what_they_need() -> None:
    on = {
        name: [b for b in ("trio", "kv260", "jetson-orin-nano") if fits(name, board(b))] for name in POLICIES
    }
    assert on["always-gpu"] == on["gpu-90"] == ["trio", "jetson-orin-nano"]
    assert on["always-fpga"] == ["trio", "kv260"]
    assert all(len(on[name]) == 3 for name in ("ours", "always-cpu", "auto", "npu-cpu", "alert", "greedy"))
