from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.placement.demand import Demand, DeviceState, Node, Placed, Plan
from agent.placement.planning.plan import plan
from agent.types import MAX_MODELS, Budget, Candidate, Measurement, OverlayRef, Verdict
from tests.unit.placement.planning.instances import random_instance

BUDGET = Budget(latency_p99_ms=20.0, rate_hz=10.0)
FP32, INT8 = Candidate("fp32", "onnxruntime", "cpu"), Candidate("int8", "onnxruntime", "cpu")
GPU, FPGA = Candidate("fp16", "sim", "gpu"), Candidate("int8", "sim", "fpga")
LITERT = Candidate("int8-tflite", "litert", "cpu")
CPU_STATE, GPU_STATE, FPGA_STATE = (
    DeviceState("cpu", "cpu", 4),
    DeviceState("gpu", "gpu"),
    DeviceState("fpga", "fpga"),
)
NODE = Node((CPU_STATE, GPU_STATE, FPGA_STATE), rest_w=4.0)
SMALL, LARGE = OverlayRef("npu-small", 1, 8), OverlayRef("npu", 1, 16)


def measured(
    candidate: Candidate = FP32,
    p99_ms: float = 5.0,
    joules: float | None = None,
    accuracy: float | None = 0.98,
    mean_ms: float | None = None,
    holding_w: float | None = None,
) -> Measurement:
    mean = p99_ms / 2 if mean_ms is None else mean_ms
    energy = "missing" if joules is None else "measured"
    return Measurement(
        candidate, 1000, mean, mean, p99_ms, 0.99, 0.1, 30.0, accuracy, joules, energy, holding_w
    )


# The GPU is fast and costly, the FPGA between, the CPU slow and frugal.
FAST = measured(GPU, 1.0, 0.01, holding_w=2.0)
MIDDLE = measured(FPGA, 1.4, 0.006, holding_w=0.8)
SLOW = measured(FP32, 3.1, 0.005)
TIGHT = Budget(latency_p99_ms=1.5, rate_hz=10.0)


def alone(
    budget: Budget,
    *measurements: Measurement,
    node: Node = NODE,
    failed: Sequence[Verdict] = (),
    incumbent: Candidate | None = None,
    rate_hz: float | None = None,
) -> Placed:
    demand = Demand("a", budget, measurements, tuple(failed), incumbent, rate_hz=rate_hz)
    return plan([demand], node).of("a")


def capped(watts: float) -> Node:
    return replace(NODE, power_cap_w=watts)


def with_device(name: str, **changes: object) -> Node:
    devices = tuple(replace(d, **changes) if d.id == name else d for d in NODE.devices)  # type: ignore[arg-type]
    return replace(NODE, devices=devices)


def verdict_of(placed: Placed, candidate: Candidate) -> Verdict:
    (found,) = [verdict for verdict in placed.verdicts if verdict.candidate == candidate]
    return found


# -- one model ---------------------------------------------------------------------------------------------------------


def test_least_energy_when_every_feasible_one_has_joules() -> None:
    placed = alone(BUDGET, measured(FP32, 2.0, 0.004), measured(INT8, 9.0, 0.001))
    assert placed.candidate == INT8 and placed.missed == ""
    assert placed.measurement is not None and placed.measurement.p99_ms == 9.0
    assert placed.reason == (
        "least energy, 0.01 W at 10/s (1 mJ a run), of 2 feasible candidates; "
        "p99 9 ms <= 20 ms, utilisation 4.5% at 10/s <= 70%"
    )
    assert verdict_of(placed, FP32).reason == (
        "feasible, but more energy than int8 on cpu (onnxruntime): 0.04 W > 0.01 W"
    )


def test_the_reason_tells_of_runs_that_answer_several_requests() -> None:
    batched = replace(measured(), max_batch=4, batch_gain=1.834)
    assert alone(BUDGET, batched).reason.endswith("up to 4 requests in a run (1.8 x as many)")
    assert "requests in a run" not in alone(BUDGET, replace(measured(), batch_gain=1.1)).reason


def test_holding_a_model_counts_as_energy() -> None:
    # By joules a run alone the GPU would win.
    gpu = measured(GPU, 2.0, 0.0013, holding_w=0.5)
    placed = alone(BUDGET, gpu, measured(FP32, 9.0, 0.0112, holding_w=0.02))
    assert placed.candidate == FP32
    assert placed.reason.startswith(
        "least energy, 0.132 W at 10/s (11.2 mJ a run, 0.02 W held), of 2 feasible candidates; "
    )
    assert verdict_of(placed, GPU).reason.endswith("0.513 W > 0.132 W")
    assert alone(replace(BUDGET, rate_hz=70.0), gpu, measured(FP32, 9.0, 0.0112)).candidate == GPU


def test_energy_goes_by_the_rate_that_is_seen_and_feasibility_by_the_budgets() -> None:
    gpu, cpu = measured(GPU, 2.0, 0.0013, holding_w=0.5), measured(FP32, 9.0, 0.0112)
    assert alone(BUDGET, gpu, cpu, rate_hz=70.0).candidate == GPU
    busy = Budget(20.0, 100.0)
    assert alone(busy, gpu, replace(cpu, mean_ms=9.0), rate_hz=1.0).candidate == GPU
    assert alone(BUDGET, gpu, cpu, rate_hz=math.nan).candidate == FP32  # as if it were not known


def test_without_requests_holding_decides_then_a_run() -> None:
    held = measured(GPU, 2.0, 0.001, holding_w=0.5)
    placed = alone(
        replace(BUDGET, rate_hz=0.0), held, measured(FP32, joules=0.004), measured(INT8, joules=0.003)
    )
    assert placed.candidate == INT8
    assert "least energy, 0 W at 0/s (3 mJ a run), of 3 feasible" in placed.reason
    assert verdict_of(placed, FP32).reason.endswith("4 mJ a run > 3 mJ a run")
    assert verdict_of(placed, GPU).reason.endswith("1 mJ a run, 0.5 W held > 3 mJ a run")


def test_lowest_p99_when_an_energy_is_missing() -> None:
    placed = alone(BUDGET, measured(FP32, 2.0), measured(INT8, 9.0, 0.001))
    assert placed.candidate == FP32
    assert "least p99, 2 ms, of 2 feasible candidates (not every one has an energy figure)" in placed.reason


@pytest.mark.parametrize("nonsense", [math.nan, -1.0, math.inf, 1e300])
def test_nonsense_for_an_energy_is_a_missing_one(nonsense: float) -> None:
    placed = alone(BUDGET, measured(FP32, 2.0, nonsense, holding_w=math.nan), measured(INT8, 9.0, 0.001))
    assert placed.candidate == FP32 and "not every one has an energy figure" in placed.reason
    found = plan([Demand("a", BUDGET, (measured(FP32, 2.0, nonsense),))], capped(5.0))
    assert found.watts is None and found.watts_bound is None
    assert "power could not be checked against 5 W (node's cap): no power meter" in found.of("a").reason


@pytest.mark.parametrize("field", ["p99_ms", "mean_ms"])
@pytest.mark.parametrize("value", [math.nan, -1.0, math.inf])
def test_a_time_that_is_nonsense_is_worse_than_any(field: str, value: float) -> None:
    nonsense = replace(measured(FP32, 1.0, 0.001), **{field: value})  # type: ignore[arg-type]
    assert alone(BUDGET, nonsense, measured(INT8, 19.0, 0.1)).candidate == INT8
    left = alone(BUDGET, nonsense)
    assert left.candidate == FP32 and left.missed


def test_an_infeasible_one_without_joules_does_not_hide_energy() -> None:
    placed = alone(BUDGET, measured(FP32, 2.0, 0.004), measured(INT8, 9.0, 0.001), measured(LITERT, 31.2))
    assert placed.candidate == INT8
    assert verdict_of(placed, LITERT).reason == "p99 31.2 ms > 20 ms"


@pytest.mark.parametrize(
    ("budget", "one", "reason"),
    [
        (BUDGET, measured(p99_ms=31.2, mean_ms=3.0), "p99 31.2 ms > 20 ms"),
        (replace(BUDGET, rate_hz=100.0), measured(p99_ms=9, mean_ms=8.0), "utilisation 80.0% at 100/s > 70%"),
        (replace(BUDGET, min_accuracy=0.99), measured(), "accuracy 0.98 < 0.99"),
        (
            replace(BUDGET, min_accuracy=0.9),
            measured(accuracy=None),
            "accuracy was not measured by the packer, 0.9 is asked for",
        ),
        (replace(BUDGET, power_w=0.5), measured(joules=0.06), "power 0.6 W > 0.5 W"),
        (replace(BUDGET, power_w=0.5), measured(joules=0.04, holding_w=0.2), "power 0.6 W > 0.5 W"),
        (
            replace(BUDGET, min_accuracy=0.99),
            measured(p99_ms=40.0, mean_ms=3.0),
            "p99 40 ms > 20 ms; accuracy 0.98 < 0.99",
        ),
    ],
)  # fmt: skip
def test_what_misses_the_budget_is_taken_for_want_of_better_and_said(
    budget: Budget, one: Measurement, reason: str
) -> None:
    placed = alone(budget, one)
    assert placed.candidate == FP32 and placed.missed == reason
    assert placed.reason == f"no candidate meets the budget; the closest is fp32 on cpu: {reason}"


def test_two_runtimes_of_one_device_are_told_apart() -> None:
    numpy, opencl = (
        measured(Candidate("npu", name, "cpu"), p99) for name, p99 in (("program", 9.0), ("opencl", 30.0))
    )
    assert alone(BUDGET, numpy, opencl).candidate == numpy.candidate
    assert alone(BUDGET, numpy, opencl, incumbent=opencl.candidate).candidate == numpy.candidate
    late = alone(TIGHT, numpy, opencl)
    assert late.reason.startswith(
        "no candidate meets the budget; the closest is npu on cpu (program): p99 9 ms"
    )
    assert verdict_of(alone(BUDGET, numpy, opencl), opencl.candidate).reason.startswith("p99 30 ms > 20 ms")


def test_the_closest_breaks_its_limits_least() -> None:
    placed = alone(BUDGET, measured(FP32, 60.0), measured(INT8, 21.0), measured(LITERT, 30.0))
    assert placed.candidate == INT8 and "p99 21 ms > 20 ms" in placed.reason


def test_answers_are_rather_late_than_wrong() -> None:
    wrong = replace(SLOW, candidate=INT8, accuracy=0.97, p99_ms=1.51)
    assert alone(replace(TIGHT, min_accuracy=0.975), SLOW, wrong).candidate == FP32


def test_who_runs_does_not_move_for_the_last_percent_of_a_latency_that_is_missed() -> None:
    both = measured(FP32, 2.04, 0.001), measured(INT8, 2.0, 0.001)
    assert alone(TIGHT, *both).candidate == INT8
    assert alone(TIGHT, *both, incumbent=FP32).candidate == FP32
    assert alone(TIGHT, measured(FP32, 2.4, 0.001), both[1], incumbent=FP32).candidate == INT8


def test_at_the_limit_is_within_it() -> None:
    assert alone(Budget(20.0, 70.0), measured(p99_ms=20.0, mean_ms=10.0)).missed == ""


def test_power_that_cannot_be_checked_is_said() -> None:
    placed = alone(replace(BUDGET, power_w=0.5), measured())
    assert placed.candidate == FP32
    assert "power could not be checked against 0.5 W (budget)" in placed.reason
    blind = replace(capped(3.0), rest_w=None)
    assert "the cap 3 W could not be checked: no power meter" in alone(BUDGET, SLOW, node=blind).reason


def test_few_runs_are_said() -> None:
    placed = alone(BUDGET, replace(measured(), confidence=0.63, runs=100))
    assert "p99 5 ms <= 20 ms (at 63% confidence, 100 runs)" in placed.reason


def test_a_failed_candidate_stays_out() -> None:
    failed = Verdict(FP32, False, "GoldenMismatch: 0.3 off")
    placed = alone(BUDGET, measured(FP32, 1.0), measured(INT8, 9.0), failed=[failed])
    assert placed.candidate == INT8
    assert verdict_of(placed, FP32) == failed


def test_nothing_measured_gives_the_reasons() -> None:
    failed = [Verdict(Candidate(f"v{i}", "litert", "cpu"), False, f"ModelLoadError: {i}") for i in range(5)]
    placed = alone(BUDGET, failed=failed)
    assert placed.candidate is None and placed.missed == placed.reason
    assert placed.reason == (
        "no candidate could be measured: v0 on cpu (litert): ModelLoadError: 0; "
        "v1 on cpu (litert): ModelLoadError: 1; v2 on cpu (litert): ModelLoadError: 2; and 2 more"
    )
    assert "no variant for a device of this node" in alone(BUDGET).reason


# -- staying, moving, ties ---------------------------------------------------------------------------------------------


def test_a_tie_keeps_the_incumbent() -> None:
    both = measured(FP32, joules=0.00104), measured(INT8, joules=0.001, accuracy=0.99)
    assert alone(BUDGET, *both).candidate == INT8
    kept = alone(BUDGET, *both, incumbent=FP32)
    assert kept.candidate == FP32
    assert "kept because it runs already" in kept.reason
    assert "tied with" in verdict_of(kept, INT8).reason


def test_an_incumbent_that_costs_more_than_a_tie_goes() -> None:
    both = measured(FP32, joules=0.00106), measured(INT8, joules=0.001)
    assert alone(BUDGET, *both, incumbent=FP32).candidate == INT8


def test_differences_within_what_the_meter_can_tell_are_ties() -> None:
    both = measured(FP32, joules=0.0015), replace(measured(INT8, joules=0.001), joules_sigma=0.0006)
    assert alone(BUDGET, *both, incumbent=FP32).candidate == FP32
    sure = both[0], replace(both[1], joules_sigma=0.0001)
    assert alone(BUDGET, *sure, incumbent=FP32).candidate == INT8


def test_a_load_must_pay_for_itself() -> None:
    costly = replace(measured(INT8, joules=0.001), load_j=60.0)  # 0.1 W over ten minutes
    demand = Demand("a", BUDGET, (measured(FP32, joules=0.01), costly), incumbent=FP32)
    stays = plan([demand], NODE).of("a")
    assert stays.candidate == FP32
    assert stays.reason.startswith(
        "energy 0.1 W at 10/s (10 mJ a run), of 2 feasible candidates; kept because moving would cost more"
    )
    assert "is not worth leaving fp32 on cpu" in verdict_of(stays, INT8).reason
    assert plan([demand], NODE, dwell_s=6000.0).of("a").candidate == INT8


def test_a_tie_goes_to_accuracy() -> None:
    both = measured(FP32, joules=0.00104, accuracy=0.99), measured(INT8, joules=0.001, accuracy=0.97)
    placed = alone(BUDGET, *both)
    assert placed.candidate == FP32
    assert "preferred for accuracy" in placed.reason


def test_several_devices_must_save_a_sixth() -> None:
    parts = (("cpu", 0.5), ("fpga", 0.5))
    single, split = measured(FP32, 2.0, 0.01), replace(measured(FPGA, 2.0, 0.009), parts=parts)
    placed = alone(BUDGET, single, split)
    assert placed.candidate == FP32
    assert (
        verdict_of(placed, FPGA).reason == "feasible, but several devices must save 15%: 0.09 W against 0.1 W"
    )
    assert alone(BUDGET, single, replace(split, joules=0.008)).candidate == FPGA
    assert alone(BUDGET, measured(FP32, 21.0, 0.001), split).candidate == FPGA  # the single one is late


# -- devices -----------------------------------------------------------------------------------------------------------


def test_a_lost_device_is_left_and_its_figures_are_kept() -> None:
    lost = with_device("gpu", lost="fell off the bus")
    placed = alone(BUDGET, FAST, SLOW, node=lost, incumbent=GPU)
    assert placed.candidate == FP32
    assert placed.reason.startswith("gpu is lost: fell off the bus; the only feasible candidate")
    assert verdict_of(placed, GPU) == Verdict(GPU, False, "gpu is lost: fell off the bus", FAST)
    missed = alone(TIGHT, FAST, SLOW, node=lost, incumbent=GPU)
    assert missed.reason == "gpu is lost: fell off the bus; p99 3.1 ms > 1.5 ms is missed until gpu is back"
    gone = alone(TIGHT, FAST, node=lost, incumbent=GPU)
    assert (
        gone.candidate is None
        and gone.reason == "gpu is lost: fell off the bus; nothing else here can run it"
    )


def test_a_device_that_the_node_does_not_have() -> None:
    placed = alone(BUDGET, measured(Candidate("fp32", "sim", "tpu")), SLOW)
    assert placed.candidate == FP32
    assert verdict_of(placed, Candidate("fp32", "sim", "tpu")).reason == "tpu is no device of this node"


def test_a_slower_device_is_left_when_it_gets_late() -> None:
    assert alone(TIGHT, FAST, MIDDLE, incumbent=FPGA).candidate == FPGA
    placed = alone(TIGHT, FAST, MIDDLE, node=with_device("fpga", slowdown=1.2), incumbent=FPGA)
    assert placed.candidate == GPU
    assert "int8 on fpga (0.86 W) is out: p99 1.68 ms (fpga 1.2 x slower) > 1.5 ms" in placed.reason
    assert alone(TIGHT, FAST, MIDDLE, node=with_device("fpga", slowdown=math.nan)).candidate == FPGA


def test_instances_and_threads_count_on_a_cpu() -> None:
    busy = Budget(20.0, 100.0)
    one = Demand("a", busy, (measured(mean_ms=10.0),))
    assert "utilisation 100.0%" in plan([one], NODE).of("a").missed
    assert plan([replace(one, instances=2)], NODE).of("a").missed == ""
    assert "utilisation 100.0%" in plan([replace(one, instances=2)], replace(NODE, threads=4)).of("a").missed


def test_memory_bounds_a_device() -> None:
    small = with_device("cpu", memory_mb=50)
    demands = [Demand(name, BUDGET, (measured(joules=0.005), FAST)) for name in "ab"]
    found = plan(demands, small)
    assert sorted(str(p.candidate) for p in found.placed) == [str(GPU), str(FP32)]
    (moved,) = [placed for placed in found.placed if placed.candidate == GPU]
    assert "memory of cpu 60 MB > 50 MB with" in verdict_of(moved, FP32).reason
    placed = alone(BUDGET, replace(SLOW, memory_mb=60.0), node=small)
    assert placed.candidate is None and "memory 60 MB > 50 MB of cpu" in placed.reason


# -- the cap -----------------------------------------------------------------------------------------------------------


def test_the_cap_bounds_what_the_whole_node_draws() -> None:
    one = measured(joules=0.03, holding_w=0.2)
    within = plan([Demand("a", BUDGET, (one,))], capped(5.5))
    assert "node 4.5 W <= cap 5.5 W" in within.of("a").reason
    assert within.watts == pytest.approx(4.5) == within.watts_bound
    beyond = alone(BUDGET, one, node=capped(4.4))
    assert beyond.candidate is None and beyond.reason == beyond.missed
    assert beyond.reason == "shed: fp32 on cpu: node 4.5 W > cap 4.4 W"


def test_the_cap_holds_for_what_the_meter_may_have_missed() -> None:
    unsure = replace(measured(joules=0.03), joules_sigma=0.01)
    demand = Demand("a", BUDGET, (unsure,))
    found = plan([demand], replace(capped(4.6), rest_sigma_w=0.05))
    assert found.watts == pytest.approx(4.3)
    assert found.watts_bound == pytest.approx(4.3 + 1.64 * (0.05 + 10.0 * 0.01))
    assert plan([demand], replace(capped(4.5), rest_sigma_w=0.05)).of("a").candidate is None


def test_what_runs_stays_where_it_is_best_under_the_cap() -> None:
    assert alone(TIGHT, FAST, SLOW, node=capped(7.0), incumbent=GPU).candidate == GPU
    moved = alone(TIGHT, FAST, MIDDLE, SLOW, node=capped(5.0), incumbent=GPU)
    assert moved.candidate == FPGA
    assert verdict_of(moved, GPU).reason == "node 6.1 W > cap 5 W"


def test_the_cap_is_kept_and_the_latency_missed() -> None:
    placed = alone(TIGHT, FAST, SLOW, node=capped(5.0), incumbent=GPU)
    assert placed.candidate == FP32 and placed.missed == "p99 3.1 ms > 1.5 ms"
    assert placed.reason == (
        "node's cap 5 W: fp16 on gpu would draw 6.1 W; p99 3.1 ms > 1.5 ms is missed until the cap rises"
    )
    assert verdict_of(placed, FP32) == Verdict(FP32, True, placed.reason, SLOW)
    assert alone(TIGHT, FAST, SLOW, node=capped(7.0), incumbent=FP32).candidate == GPU  # the cap has risen


def test_a_cap_below_the_nodes_rest_sheds_nobody() -> None:
    demands = [
        Demand("a", TIGHT, (FAST, MIDDLE, SLOW), incumbent=GPU),
        Demand("b", replace(BUDGET, min_accuracy=0.97), (SLOW, measured(INT8, 3.0, 0.001, accuracy=0.9))),
    ]
    found = plan(demands, capped(2.0))
    assert [placed.candidate for placed in found.placed] == [FP32, FP32]
    assert found.of("a").reason == (
        "the node's cap 2 W is below its rest of 4 W, so nothing keeps it; least draw, 0.05 W at 10/s; "
        "p99 3.1 ms > 1.5 ms is missed"
    )


def test_a_cap_within_the_uncertainty_of_the_rest_is_said_to_be() -> None:
    found = plan([Demand("a", BUDGET, (SLOW,), incumbent=FP32)], replace(capped(4.1), rest_sigma_w=0.1))
    assert found.of("a").reason.startswith(
        "the node's cap 4.1 W is below its rest of at most 4.164 W (95%), so nothing keeps it; least draw"
    )


def test_the_cap_is_for_all_models_together() -> None:
    demands = [Demand(name, TIGHT, (FAST, MIDDLE, SLOW), incumbent=GPU) for name in "ab"]
    # Both on the FPGA would hold it once: 4 + 0.8 + 2 x 0.06 W.
    found = plan(demands, capped(4.93))
    assert [placed.candidate for placed in found.placed] == [FPGA, FPGA]
    assert found.watts == pytest.approx(4.92)
    shed = plan(
        [replace(d, budget=replace(TIGHT, priority=p)) for d, p in zip(demands, (0, 1), strict=True)],
        capped(4.06),
    )
    assert [placed.candidate for placed in shed.placed] == [None, FP32]
    assert shed.of("a").reason == "shed: fp32 on cpu: node 4.1 W > cap 4.06 W with b (0.05 W)"


# -- several models ----------------------------------------------------------------------------------------------------


def test_holding_a_device_is_paid_once() -> None:
    cheap_runs = measured(GPU, 1.0, 0.001, holding_w=0.5)
    demand = Demand("a", replace(BUDGET, rate_hz=40.0), (cheap_runs, measured(FP32, 3.0, 0.012)))
    assert plan([demand], NODE).of("a").candidate == FP32
    both = plan([demand, replace(demand, model="b")], NODE)
    assert [placed.candidate for placed in both.placed] == [GPU, GPU]
    assert "1 mJ a run, 0.5 W held with others" in both.of("b").reason
    assert both.watts == pytest.approx(4.0 + 0.5 + 2 * 0.04)


def test_one_overlay_on_an_fpga() -> None:
    small, large = replace(MIDDLE, overlay=SMALL), replace(MIDDLE, overlay=LARGE)
    runs = Demand("camera", TIGHT, (large, replace(SLOW, joules=0.2)), incumbent=FPGA)
    newcomer = Demand("digits", TIGHT, (small, SLOW))
    found = plan([runs, newcomer], NODE)
    assert found.of("camera").candidate == FPGA
    assert found.of("digits").missed == "p99 3.1 ms > 1.5 ms"
    assert found.of("digits").reason == (
        "int8 on fpga is out: fpga holds npu for camera; p99 3.1 ms > 1.5 ms is missed until camera leaves fpga"
    )
    first = plan([runs, replace(newcomer, budget=replace(TIGHT, priority=3))], NODE)
    assert first.of("digits").candidate == FPGA
    assert first.of("camera").candidate == FP32
    assert "int8 on fpga is out: fpga holds npu-small for digits; p99" in first.of("camera").reason
    # Who can run elsewhere within its budget makes room.
    moved = plan([replace(runs, budget=BUDGET), newcomer], NODE)
    assert [placed.missed for placed in moved.placed] == ["", ""]
    reason = moved.of("camera").reason
    assert reason.startswith(
        "the only feasible candidate, energy 2 W at 10/s (200 mJ a run); int8 on fpga (0.06 W) is out"
    )
    shared = plan([runs, replace(newcomer, measurements=(large, SLOW))], NODE)
    assert [placed.candidate for placed in shared.placed] == [FPGA, FPGA]


def test_a_device_is_not_used_up() -> None:
    busy = Demand(
        "a", Budget(20.0, 100.0), (measured(GPU, 9.0, 0.001, mean_ms=4.0), measured(FP32, 9.0, 0.1))
    )
    found = plan([busy, replace(busy, model="b")], NODE)
    assert sorted(str(placed.candidate) for placed in found.placed) == [str(GPU), str(FP32)]
    (moved,) = [placed for placed in found.placed if placed.candidate == FP32]
    assert "utilisation of gpu 80.0% > 70% with" in verdict_of(moved, GPU).reason


def test_the_parts_of_a_composite_count_on_their_devices() -> None:
    split = replace(measured(FPGA, 9.0, 0.001, mean_ms=8.0), parts=(("cpu", 4.0), ("fpga", 4.0)))
    one_core = replace(NODE, devices=(DeviceState("cpu", "cpu"), FPGA_STATE))
    on_cpu = Demand("b", Budget(20.0, 100.0), (measured(FP32, 9.0, 0.001, mean_ms=4.0),), incumbent=FP32)
    found = plan([Demand("a", Budget(50.0, 90.0), (split,)), on_cpu], one_core)
    assert found.of("a").candidate is None
    assert found.of("a").reason == "shed: int8 on fpga: utilisation of cpu 76.0% > 70% with b"
    assert plan([Demand("a", Budget(50.0, 90.0), (split,)), on_cpu], NODE).of("a").candidate == FPGA


def test_parts_may_be_named_by_kind_and_need_all_their_devices() -> None:
    second = DeviceState("fpga1", "fpga")
    node = replace(NODE, devices=(*NODE.devices, second))
    there = replace(FPGA, device="fpga1")
    split = replace(measured(there, 9.0, 0.001, mean_ms=8.0), parts=(("cpu", 4.0), ("fpga", 4.0)))
    full = Demand("b", Budget(20.0, 150.0), (measured(FPGA, 9.0, 0.001, mean_ms=5.0),))
    found = plan([Demand("a", Budget(50.0, 90.0), (split,)), full], node)
    assert [placed.missed for placed in found.placed] == ["", ""]
    away = replace(node, devices=(replace(CPU_STATE, lost="gone"), *node.devices[1:]))
    lost = plan([Demand("a", Budget(50.0, 90.0), (split,))], away).of("a")
    assert lost.reason == "cpu is lost: gone; nothing else here can run it"


def test_a_long_run_in_the_queue_makes_a_short_one_late() -> None:
    short = Demand(
        "short", Budget(3.0, 100.0), (measured(GPU, 2.0, 0.001), measured(FP32, 2.9, 0.01)), incumbent=GPU
    )
    long = Demand(
        "long", Budget(50.0, 10.0), (measured(GPU, 30.0, 0.001), measured(FP32, 40.0, 0.5)), incumbent=GPU
    )
    found = plan([short, long], NODE)
    assert found.of("short").candidate == FP32 and found.of("long").candidate == GPU
    assert "is out: p99 17 ms > 3 ms with a wait of 15 ms for long on gpu" in found.of("short").reason
    only = plan(
        [
            replace(short, measurements=short.measurements[:1]),
            replace(long, measurements=long.measurements[:1]),
        ],
        NODE,
    )
    assert only.of("short").missed == "p99 17 ms > 3 ms with a wait of 15 ms for long on gpu"
    seldom = replace(long, budget=Budget(50.0, 0.5))  # less than a hundredth of the GPU
    assert [placed.candidate for placed in plan([short, seldom], NODE).placed] == [GPU, GPU]


def test_who_runs_stays_when_another_of_the_same_priority_comes() -> None:
    gpu_only = Budget(1.2, 400.0)
    mine = Demand("z", gpu_only, (FAST, SLOW), incumbent=GPU)
    other = Demand("a", gpu_only, (FAST, SLOW))
    found = plan([mine, other], NODE)
    assert found.of("z").missed == "" and found.of("a").missed
    higher = plan([mine, replace(other, budget=replace(gpu_only, priority=1))], NODE)
    assert higher.of("a").missed == "" and higher.of("z").missed


def test_two_demands_for_one_model_are_refused() -> None:
    demand = Demand("a", BUDGET, (SLOW,))
    with pytest.raises(ValueError, match="'a' is asked for twice"):
        plan([demand, demand], NODE)


def test_the_latest_of_two_measurements_counts() -> None:
    old, new = replace(SLOW, p99_ms=9.0, measured=1.0), replace(SLOW, measured=2.0)
    assert alone(BUDGET, new, old).measurement == new == alone(BUDGET, old, new).measurement


def test_no_models_and_no_devices() -> None:
    assert plan([], NODE) == Plan((), 4.0, 4.0)
    placed = plan([Demand("a", BUDGET, (SLOW,))], Node(())).of("a")
    assert placed.candidate is None and "cpu is no device of this node" in placed.reason


def test_as_many_models_as_a_node_may_have_are_planned_within_the_bound() -> None:
    demands, node = random_instance(MAX_MODELS, 4, seed=1)
    found = plan(demands, node, nodes=1000)
    assert len(found.placed) == MAX_MODELS and not found.optimal
    check(demands, node, found)


# -- properties --------------------------------------------------------------------------------------------------------


def check(demands: Sequence[Demand], node: Node, found: Plan) -> None:
    """What holds for every plan: all is explained, and nothing hard is broken."""
    busy: dict[str, float] = {}
    overlays: dict[str, set[OverlayRef]] = {}
    by_name = {demand.model: demand for demand in demands}
    assert [placed.model for placed in found.placed] == sorted(by_name)
    for placed in found.placed:
        demand = by_name[placed.model]
        assert placed.reason and all(verdict.reason for verdict in placed.verdicts)
        assert [v.candidate for v in placed.verdicts if v.chosen] == [placed.candidate] * (
            placed.candidate is not None
        )
        assert {v.candidate for v in placed.verdicts} == {m.candidate for m in demand.measurements}
        m = placed.measurement
        if m is None:
            assert placed.missed
            continue
        assert m.candidate == placed.candidate and m in demand.measurements
        if not placed.missed:
            assert m.p99_ms * min(1.0, *(d.slowdown for d in node.devices)) <= demand.budget.latency_p99_ms
        if m.overlay is not None:
            overlays.setdefault(m.candidate.device, set()).add(m.overlay)
        if not m.parts:
            busy[m.candidate.device] = (
                busy.get(m.candidate.device, 0.0) + demand.budget.rate_hz * m.mean_ms / 1e3
            )
    assert all(len(held) == 1 for held in overlays.values())
    for device in node.devices:
        if device.kind == "gpu" and not any("utilisation" in placed.missed for placed in found.placed):
            assert busy.get(device.id, 0.0) * device.slowdown <= 0.7 + 1e-6
    if node.power_cap_w is not None and found.watts_bound is not None and node.rest_w is not None:
        rest_w = node.rest_w + 1.64 * node.rest_sigma_w
        assert found.watts_bound <= node.power_cap_w + 1e-6 or node.power_cap_w < rest_w


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 6), st.randoms(use_true_random=False))
def test_a_plan_keeps_what_is_hard_explains_all_and_does_not_depend_on_order(
    seed: int, models: int, candidates: int, order: random.Random
) -> None:
    demands, node = random_instance(models, candidates, seed)
    found = plan(demands, node)
    check(demands, node, found)
    shuffled = [
        replace(demand, measurements=tuple(order.sample(demand.measurements, len(demand.measurements))))
        for demand in order.sample(demands, len(demands))
    ]
    devices = tuple(order.sample(node.devices, len(node.devices)))
    assert plan(shuffled, replace(node, devices=devices)) == found


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 6))
def test_a_plan_that_is_carried_out_stays(seed: int, models: int, candidates: int) -> None:
    demands, node = random_instance(models, candidates, seed)
    found = plan(demands, node)
    settled = [replace(demand, incumbent=found.of(demand.model).candidate) for demand in demands]
    again = plan(settled, node)
    assert [placed.candidate for placed in again.placed] == [placed.candidate for placed in found.placed]


absurd = st.sampled_from((math.nan, math.inf, -math.inf, -1.0, 0.0, 1e-300, 1e300))
FIELDS = (
    "mean_ms",
    "p50_ms",
    "p99_ms",
    "memory_mb",
    "accuracy",
    "joules",
    "holding_w",
    "joules_sigma",
    "load_j",
)


@given(st.integers(0, 10**6), st.data())
def test_nonsense_is_planned_around(seed: int, data: st.DataObject) -> None:
    """Whatever measurements, meters and slowdowns say, there is a plan with its reasons."""
    demands, node = random_instance(3, 4, seed)
    spoilt = tuple(
        replace(m, **{data.draw(st.sampled_from(FIELDS)): data.draw(absurd)})  # type: ignore[arg-type]
        for m in demands[0].measurements
    )
    node = replace(
        node,
        rest_w=data.draw(st.just(node.rest_w) | absurd),
        rest_sigma_w=data.draw(st.just(0.0) | absurd),
        devices=tuple(replace(d, slowdown=data.draw(st.just(1.0) | absurd)) for d in node.devices),
    )
    odd = replace(demands[0], measurements=spoilt, rate_hz=data.draw(st.none() | absurd))
    found = plan([odd, *demands[1:]], node)
    assert [placed.model for placed in found.placed] == ["m0", "m1", "m2"]
    assert all(placed.reason and all(v.reason for v in placed.verdicts) for placed in found.placed)
