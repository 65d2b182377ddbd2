"""What a policy is told on a scenario's node, and how its moves are carried out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest

from agent.placement.adapting.look import Look, Move
from agent.placement.demand import Demand, Node
from agent.types import Candidate
from simulator.clock import EventClock
from simulator.faults import Fault
from simulator.scenario.files import Scenario
from simulator.scenario.measure import measure_model, measure_rest
from simulator.scenario.moves import VERIFY_S
from simulator.scenario.record import ModelRecord
from simulator.scenario.run import Model, Run, simulate
from simulator.scenario.workload import Workload
from tests.unit.simulator.scenario import INT8, workload
from tests.unit.simulator.small import CPU, FPGA, GPU, IDLE_W, small_board

BOARD = small_board()
ON = {name: Candidate(INT8.name, "onnxruntime", name) for name in ("cpu", "gpu", "fpga")}
Decide = Callable[[Look, Sequence[Demand], Node], Sequence[Move]]


class Told:
    """A policy that notes what it is told; ``decide`` answers, from the second look on."""

    reasons: Mapping[str, str] = {}

    def __init__(
        self, first: str, decide: Decide = lambda *_: (), ok: bool = True, probes: bool = False
    ) -> None:
        self.probes = probes
        self.looks: list[Look] = []
        self.demands: list[Sequence[Demand]] = []
        self.nodes: list[Node] = []
        self.verified: list[tuple[Candidate, float]] = []
        self.failures: list[tuple[Candidate, str]] = []
        self._first, self._decide, self._ok = first, decide, ok

    def look(self, look: Look, demands: Sequence[Demand], node: Node) -> Sequence[Move]:
        self.looks.append(look)
        self.demands.append(demands)
        self.nodes.append(node)
        if len(self.looks) == 1:
            return [Move(demand.model, ON[self._first], "first", "") for demand in demands]
        return self._decide(look, demands, node)

    def verify(self, model: str, candidate: Candidate, z: float, now: float) -> bool:
        del model, now
        self.verified.append((candidate, z))
        return self._ok

    def failed(self, model: str, candidate: Candidate, why: str) -> None:
        del model
        self.failures.append((candidate, why))


def go(*workloads: Workload, policy: Told, duration_s: float = 30.0, faults: tuple[Fault, ...] = ()) -> Run:
    scenario = Scenario(
        board="small", duration_s=duration_s, models=tuple(each.load for each in workloads), faults=faults
    )
    models = [
        Model(each, measure_model(BOARD, 0, each), ModelRecord(each.budget.latency_p99_ms, 1.0))
        for each in workloads
    ]
    return simulate(BOARD, scenario, models, policy, EventClock(), measure_rest(BOARD))


def once(at_look: int, to: str, policy: list[Told]) -> Decide:
    """Asks for the move at every look from then on, until the model is there."""

    def decide(look: Look, demands: Sequence[Demand], node: Node) -> Sequence[Move]:
        del look, node
        there = [demand for demand in demands if demand.incumbent != ON[to]]
        return (
            [Move(d.model, ON[to], "asked", "because") for d in there]
            if len(policy[0].looks) > at_look
            else ()
        )

    return decide


def mover(at_look: int, to: str, first: str = "cpu", ok: bool = True, probes: bool = False) -> Told:
    policy: list[Told] = []
    policy.append(Told(first, once(at_look, to, policy), ok, probes))
    return policy[0]


def places(ran: Run) -> list[tuple[str | None, str | None, float]]:
    """(from, to, time in s) of what has changed."""
    return [
        (d.old.device if d.old else None, d.new.device if d.new else None, round(d.time_s, 2))
        for d in ran.node.decisions
    ]


# -- what it is told ---------------------------------------------------------------------------------------------------


def test_it_sees_what_has_ended_and_what_the_sensors_show() -> None:
    policy = Told("cpu")
    go(workload(arrivals="regular", rate_hz=20.0), policy=policy)
    ticks = [look for look in policy.looks[1:] if look.seen]
    assert len(ticks) == 29 and all(
        look.now - before.now == pytest.approx(1.0) for before, look in itertools.pairwise(ticks)
    )
    (seen,) = ticks[5].seen
    assert (seen.candidate, seen.requests, seen.runs, seen.late) == (ON["cpu"], 20, 20, 0)
    assert seen.run_s == pytest.approx(20 * 0.003)
    assert ticks[5].power_w == pytest.approx(IDLE_W + 20 * 0.012, abs=0.1)


def test_runs_that_still_wait_are_not_seen() -> None:
    policy = Told("cpu")
    go(
        workload(p99_ms=100.0, arrivals="regular", rate_hz=500.0), policy=policy, duration_s=3.0
    )  # 3 ms each: too many
    (seen,) = next(look for look in policy.looks if look.seen).seen
    assert seen.requests == 500 and seen.runs == pytest.approx(333, abs=2) and seen.late > 200


def test_a_lost_device_and_a_lost_sensor_are_told_and_nothing_of_the_truth_is() -> None:
    faults = (
        Fault(kind="device-lost", target="cpu", at_s=5, for_s=4), Fault(kind="co-tenant", target="gpu", value=0.5),
        Fault(kind="sensor-missing", target="total", at_s=10, for_s=5),
    )  # fmt: skip
    policy = Told("cpu")
    go(workload(), policy=policy, faults=faults)
    lost = [{d.id for d in node.devices if d.lost} for node in policy.nodes]
    assert lost[0] == lost[-1] == set() and {"cpu"} in lost
    assert all(d.slowdown == 1.0 for node in policy.nodes for d in node.devices)
    assert all(node.rest_w == pytest.approx(IDLE_W) for node in policy.nodes)
    blind = [look for look in policy.looks[2:] if look.power_w is None]
    assert 4 <= len(blind) <= 7


def test_nonsense_of_a_sensor_is_no_power() -> None:
    policy = Told("cpu")
    go(workload(), policy=policy, faults=(Fault(kind="sensor-nonsense", target="total", at_s=5),))
    watts = [look.power_w for look in policy.looks[10:]]
    assert None in watts and all(each is None or math.isfinite(each) for each in watts)


# -- how it is carried out ---------------------------------------------------------------------------------------------


def test_a_fresh_worker_is_tried_before_it_takes_over() -> None:
    policy = mover(5, "gpu", probes=True)
    ran = go(workload(), policy=policy, faults=(Fault(kind="co-tenant", target="gpu", value=0.5),))
    (moved,) = places(ran)[1:]
    decided_s = ran.node.decisions[1].decided_s
    assert moved[:2] == ("cpu", "gpu") and moved[2] - decided_s == pytest.approx(1.0 + VERIFY_S, abs=0.01)
    ((candidate, z),) = policy.verified
    assert candidate == ON["gpu"] and z == pytest.approx(2.0)  # half the device is another's
    assert ran.cell.state.held == [0, 1, 0]


def test_one_that_is_not_fast_enough_leaves_the_model_where_it_is() -> None:
    policy = mover(5, "gpu", ok=False, probes=True)
    ran = go(workload(), policy=policy, duration_s=12.0)
    assert [new for _, new, _ in places(ran)] == ["cpu"] and len(
        policy.verified
    ) > 1  # it asks again and again
    assert ran.node.services[0].record.requests and not failures(ran)


def test_a_move_that_is_asked_for_again_is_not_begun_anew() -> None:
    ran = go(workload(), policy=mover(5, "gpu"))
    assert [new for _, new, _ in places(ran)] == ["cpu", "gpu"]
    assert ran.node.switch_j == pytest.approx(10.0)  # one load of the GPU: 1 s at 10 W
    assert ran.cell.state.held == [0, 1, 0] and not failures(ran)


def test_moves_wait_for_each_other() -> None:
    ran = go(workload("a"), workload("b"), policy=mover(5, "gpu"))
    one, other = (time_s for _, new, time_s in places(ran) if new == "gpu")
    assert other - one == pytest.approx(1.0, abs=0.05)
    assert ran.cell.state.held[GPU] == 2 and ran.cell.state.held[CPU] == 0


def test_a_model_that_is_shed_is_told_so_and_comes_back() -> None:
    def decide(look: Look, demands: Sequence[Demand], node: Node) -> Sequence[Move]:
        del node
        start.setdefault("s", look.now)
        shed = 10.0 < look.now - start["s"] < 20.0
        (demand,) = demands
        if shed:
            return [Move(demand.model, None, "cap", "no room")] if demand.incumbent else ()
        return () if demand.incumbent else [Move(demand.model, ON["cpu"], "cap", "room")]

    start: dict[str, float] = {}
    ran = go(workload(arrivals="regular"), policy=Told("cpu", decide))
    assert [(old, new) for old, new, _ in places(ran)] == [(None, "cpu"), ("cpu", None), (None, "cpu")]
    assert set(failures(ran)) == {"shed"} and 150 < failures(ran)["shed"] < 250


def test_a_device_that_cannot_be_opened_is_told_and_lost() -> None:
    policy = mover(5, "fpga")
    ran = go(
        workload(),
        policy=policy,
        faults=(Fault(kind="overlay-load-failure", target="fpga", at_s=0),),
        duration_s=10.0,
    )
    assert [new for _, new, _ in places(ran)] == ["cpu"] and not failures(ran)
    assert policy.failures and policy.failures[0][0] == ON["fpga"]
    assert any("overlay" in d.lost for d in policy.nodes[-1].devices)
    assert ran.cell.state.held[FPGA] == 0


def test_models_come_and_go() -> None:
    guest = replace(workload("guest", rate=((0, 0), (6, 20), (14, 0))), begins_s=5.0, ends_s=15.0)
    policy = Told(
        "cpu", lambda _, demands, __: [Move(d.model, ON["cpu"], "", "") for d in demands if not d.incumbent]
    )
    ran = go(workload(), guest, policy=policy, duration_s=20.0)
    assert {len(demands) for demands in policy.demands} == {1, 2}
    assert ran.cell.state.held == [1, 0, 0] and not failures(ran)
    assert len(ran.node.services) == 1


def failures(ran: Run) -> Mapping[str, int]:
    found: dict[str, int] = {}
    for service in ran.node.services:
        assert isinstance(service.record, ModelRecord)
        found.update(service.record.failures)
    return found
