from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.placement.demand import Demand, DeviceState, Node
from agent.placement.planning.outlook import NEAR, Change, outlook
from agent.placement.planning.plan import plan
from agent.types import Budget, Candidate, Measurement
from tests.unit.placement.planning.instances import random_instance

CPU, GPU = Candidate("fp32", "onnxruntime", "cpu"), Candidate("fp16", "sim", "gpu")
NODE = Node((DeviceState("cpu", "cpu", 4), DeviceState("gpu", "gpu")), rest_w=4.0)


def measured(candidate: Candidate, p99_ms: float, joules: float | None, holding_w: float) -> Measurement:
    return Measurement(
        candidate, 1000, p99_ms / 2, p99_ms / 2, p99_ms, 0.99, 0.1, 30.0, None, joules, "measured", holding_w
    )


FAST, SLOW = measured(GPU, 1.0, 0.01, 2.0), measured(CPU, 3.0, 0.03, 0.0)
DEMAND = Demand("a", Budget(1.5, 10.0), (FAST, SLOW))


def changes(demand: Demand, node: Node, what: str) -> list[Change]:
    found = outlook([demand], node, plan([demand], node), demand.model)
    return [change for change in found if change.what == what]


def test_the_cap_at_which_it_moves() -> None:
    # On the GPU the node draws 4 + 2 + 0.1 W, on the CPU 4.3 W.
    (falls,) = changes(DEMAND, NODE, "cap")
    assert (falls.candidate, falls.above) == (CPU, False)
    assert falls.threshold == pytest.approx(6.1, rel=0.02)
    assert falls.text == "fp32 on cpu if the cap falls below 6.1 W"
    shed, rises = changes(DEMAND, replace(NODE, power_cap_w=5.0), "cap")
    assert (shed.candidate, shed.above) == (None, False)
    assert shed.threshold == pytest.approx(4.3, rel=0.02) and shed.text.startswith(
        "shed if the cap falls below 4.3"
    )
    assert (rises.candidate, rises.above) == (GPU, True)
    assert rises.threshold == pytest.approx(6.1, rel=0.02)


def test_the_rate_at_which_holding_pays() -> None:
    roomy = replace(DEMAND, budget=Budget(20.0, 10.0))
    # The GPU saves 0.02 J a run and holds 2 W: from 100/s on, and 5 % later.
    (rises,) = changes(roomy, NODE, "rate")
    assert (rises.candidate, rises.above) == (GPU, True)
    assert rises.threshold == pytest.approx(107.5, rel=0.03)
    assert rises.text.startswith("fp16 on gpu if the rate rises above 1")


def test_the_latency_budget_and_the_speed_at_which_it_moves() -> None:
    (rises,) = changes(DEMAND, NODE, "latency")
    assert (rises.candidate, rises.above) == (CPU, True)
    assert rises.threshold == pytest.approx(3.0, rel=0.02)
    (slower,) = changes(DEMAND, NODE, "slowdown")
    # Both are late then; the GPU is as late as the CPU when it is three times slower, and 5 % more to move.
    assert slower.candidate == CPU and slower.device == "gpu"
    assert slower.threshold == pytest.approx(3.15, rel=0.03)
    assert "gpu gets 3.1" in slower.text and "times slower than profiled" in slower.text


def test_a_device_that_is_lost() -> None:
    (lost,) = changes(DEMAND, NODE, "lost")
    assert (lost.device, lost.candidate, lost.threshold) == ("gpu", CPU, None)
    assert lost.text == "fp32 on cpu if gpu is lost"
    gone = replace(NODE, devices=(NODE.devices[0], replace(NODE.devices[1], lost="fell off the bus")))
    (also,) = changes(DEMAND, gone, "lost")
    assert (also.device, also.candidate) == ("cpu", None)


def test_a_change_names_the_runtime_where_there_are_two() -> None:
    opencl = measured(Candidate("fp32", "opencl", "cpu"), 9.0, 0.09, 0.0)
    two = replace(DEMAND, measurements=(FAST, SLOW, opencl))
    lost = next(change for change in changes(two, NODE, "lost") if change.device == "gpu")
    assert lost.text == "fp32 on cpu (onnxruntime) if gpu is lost"


def test_without_a_meter_nothing_is_said_of_the_cap() -> None:
    assert changes(DEMAND, replace(NODE, rest_w=None, power_cap_w=5.0), "cap") == []
    blind = replace(DEMAND, measurements=(replace(FAST, joules=None), SLOW))
    assert changes(blind, NODE, "cap") == []


def test_a_model_that_nothing_can_run_has_no_outlook() -> None:
    nowhere = replace(DEMAND, measurements=())
    assert outlook([nowhere], NODE, plan([nowhere], NODE), "a") == ()
    with pytest.raises(KeyError):
        outlook([DEMAND], NODE, plan([DEMAND], NODE), "b")


def test_what_the_others_do_counts() -> None:
    other = Demand("b", Budget(1.5, 10.0), (FAST,))
    found = outlook([DEMAND, other], NODE, plan([DEMAND, other], NODE), "a")
    (falls,) = [change for change in found if change.what == "cap"]
    assert falls.threshold == pytest.approx(6.2, rel=0.02)  # holding the GPU is paid once


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 6))
@example(862344, 4, 4)  # what takes the search some time
@example(3414, 3, 1)  # with 3 % less than the threshold another model is shed, and this one is back
def test_beyond_a_threshold_the_plan_is_another(seed: int, models: int, candidates: int) -> None:
    demands, node = random_instance(models, candidates, seed)
    now = plan(demands, node)
    settled = [replace(demand, incumbent=now.of(demand.model).candidate) for demand in demands]
    for change in outlook(demands, node, now, "m0"):
        assert change.text and change.candidate != now.of("m0").candidate
        if change.what == "cap" and change.threshold is not None:
            side = 1.0 if change.above else -1.0
            beyond = [change.threshold * (1.0 + side * share) for share in (NEAR / 2, NEAR, 0.03)]
            then = [plan(settled, replace(node, power_cap_w=cap_w)).of("m0").candidate for cap_w in beyond]
            here = plan(settled, replace(node, power_cap_w=change.threshold)).of("m0").candidate
            assert here == now.of("m0").candidate
            assert {*then} != {here} or beyond[-1] < (node.rest_w or 0.0) + 1.64 * node.rest_sigma_w
