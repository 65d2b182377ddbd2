from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.placement.alone import TIE, Choice, choose, replan
from agent.placement.candidates import VariantInfo, candidates_for
from agent.types import BackendInfo, BoardInfo, Budget, Candidate, DeviceInfo, Measurement, Verdict

BUDGET = Budget(latency_p99_ms=20.0, rate_hz=10.0)
FP32, INT8 = Candidate("fp32", "onnxruntime", "cpu"), Candidate("int8", "onnxruntime", "cpu")
GPU, FPGA = Candidate("fp16", "sim", "gpu"), Candidate("int8", "sim", "fpga")
LITERT = Candidate("int8-tflite", "litert", "cpu")


def measured(
    candidate: Candidate = FP32,
    p99_ms: float = 5.0,
    joules: float | None = None,
    accuracy: float | None = 0.98,
    mean_ms: float | None = None,
    holding_w: float | None = None,
    rest_w: float | None = None,
) -> Measurement:
    mean = p99_ms / 2 if mean_ms is None else mean_ms
    energy = "missing" if joules is None else "measured"
    return Measurement(
        candidate, 1000, mean, mean, p99_ms, 0.99, 0.1, 30.0, accuracy, joules, energy, holding_w, rest_w
    )


def verdict_of(choice: Choice, candidate: Candidate) -> Verdict:
    (found,) = [verdict for verdict in choice.verdicts if verdict.candidate == candidate]
    return found


def test_the_reason_tells_of_runs_that_answer_several_requests() -> None:
    batched = replace(measured(), max_batch=4, batch_gain=1.834)
    assert choose(BUDGET, [batched]).reason.endswith("up to 4 requests in a run (1.8 x as many)")
    assert "requests in a run" not in choose(BUDGET, [replace(measured(), batch_gain=1.1)]).reason


def test_candidates_are_variants_on_backends_that_open_them() -> None:
    cpu = DeviceInfo(
        "cpu", "cpu", "EPYC",
        (BackendInfo("onnxruntime", "1", ("onnx",)), BackendInfo("litert", "2", ("tflite",))),
    )  # fmt: skip
    fpga = DeviceInfo("fpga0", "fpga", "Zynq", ())
    variants = [
        VariantInfo("fp32", "onnx", "fp32", ("cpu", "gpu"), 0.98),
        VariantInfo("int8", "onnx", "int8", ("cpu",), 0.97),
        VariantInfo("lite", "tflite", "int8", ("cpu", "fpga"), 0.97),
    ]
    candidates, verdicts = candidates_for(variants, BoardInfo("b", False, (cpu, fpga)))
    assert set(candidates) == {FP32, INT8, Candidate("lite", "litert", "cpu")}
    reasons = {(v.candidate.variant, v.candidate.device): v.reason for v in verdicts}
    assert reasons == {
        ("fp32", "fpga0"): "made for cpu, gpu; fpga0 is a fpga",
        ("int8", "fpga0"): "made for cpu; fpga0 is a fpga",
        ("lite", "fpga0"): "fpga0 has no runtime for tflite; it has no runtime",
    }
    assert not any(verdict.chosen for verdict in verdicts)


def test_a_missing_runtime_is_named() -> None:
    cpu = DeviceInfo("cpu", "cpu", "ARMv7", (BackendInfo("litert", "2.14", ("tflite",)),))
    candidates, (verdict,) = candidates_for(
        [VariantInfo("fp32", "onnx", "fp32", ("cpu",), None)], BoardInfo("b", False, (cpu,))
    )
    assert candidates == ()
    assert verdict.reason == "cpu has no runtime for onnx; it has litert (tflite)"


def test_least_energy_when_every_feasible_one_has_joules() -> None:
    choice = choose(BUDGET, [measured(FP32, 2.0, 0.004), measured(INT8, 9.0, 0.001)])
    assert choice.candidate == INT8
    assert choice.measurement is not None
    assert choice.measurement.p99_ms == 9.0
    assert "least energy, 0.01 W at 10/s (1 mJ a run), of 2 feasible candidates" in choice.reason
    assert "p99 9 ms <= 20 ms" in choice.reason
    assert verdict_of(choice, FP32).reason == (
        "feasible, but more energy than int8 on cpu (onnxruntime): 0.04 W > 0.01 W"
    )


def test_holding_a_model_counts_as_energy() -> None:
    # By joules a run alone the GPU would win.
    gpu = measured(GPU, 2.0, 0.0013, holding_w=0.5)
    choice = choose(BUDGET, [gpu, measured(FP32, 9.0, 0.0112, holding_w=0.02)])
    assert choice.candidate == FP32
    assert choice.reason.startswith(
        "least energy, 0.132 W at 10/s (11.2 mJ a run, 0.02 W held), of 2 feasible candidates; "
    )
    assert verdict_of(choice, GPU).reason.endswith("0.513 W > 0.132 W")
    assert choose(replace(BUDGET, rate_hz=70.0), [gpu, measured(FP32, 9.0, 0.0112)]).candidate == GPU


def test_without_requests_holding_decides_then_a_run() -> None:
    idle = replace(BUDGET, rate_hz=0.0)
    held = measured(GPU, 2.0, 0.001, holding_w=0.5)
    choice = choose(idle, [held, measured(FP32, joules=0.004), measured(INT8, joules=0.003)])
    assert choice.candidate == INT8
    assert "least energy, 0 W at 0/s (3 mJ a run), of 3 feasible" in choice.reason
    assert verdict_of(choice, FP32).reason.endswith("4 mJ a run > 3 mJ a run")
    assert verdict_of(choice, GPU).reason.endswith("1 mJ a run, 0.5 W held > 3 mJ a run")


def test_lowest_p99_when_an_energy_is_missing() -> None:
    choice = choose(BUDGET, [measured(FP32, 2.0), measured(INT8, 9.0, 0.001)])
    assert choice.candidate == FP32
    assert "least p99, 2 ms, of 2 feasible candidates (not every one has an energy figure)" in choice.reason


def test_an_infeasible_one_without_joules_does_not_hide_energy() -> None:
    choice = choose(BUDGET, [measured(FP32, 2.0, 0.004), measured(INT8, 9.0, 0.001), measured(LITERT, 31.2)])
    assert choice.candidate == INT8
    assert verdict_of(choice, LITERT).reason == "p99 31.2 ms > 20 ms"


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
def test_infeasible_says_by_how_much(budget: Budget, one: Measurement, reason: str) -> None:
    choice = choose(budget, [one])
    assert choice.candidate is None
    assert choice.measurement is None
    assert choice.verdicts == (Verdict(FP32, False, reason, one),)
    assert choice.reason == f"no candidate meets the budget; the closest was {FP32}: {reason}"


def test_the_closest_breaks_its_limits_least() -> None:
    choice = choose(BUDGET, [measured(FP32, 60.0), measured(INT8, 21.0), measured(LITERT, 30.0)])
    assert f"the closest was {INT8}: p99 21 ms > 20 ms" in choice.reason


def test_at_the_limit_is_within_it() -> None:
    assert choose(Budget(20.0, 70.0), [measured(p99_ms=20.0, mean_ms=10.0)]).candidate == FP32


def test_the_nodes_cap_counts_when_it_is_lower() -> None:
    one = measured(joules=0.03)
    assert choose(BUDGET, [one], power_cap_w=0.4).candidate == FP32
    assert choose(BUDGET, [one], power_cap_w=0.2).candidate is None
    assert choose(replace(BUDGET, power_w=0.2), [one], power_cap_w=0.4).candidate is None


def test_the_cap_bounds_what_the_whole_node_draws() -> None:
    one = measured(joules=0.03, holding_w=0.2, rest_w=4.8)
    within = choose(BUDGET, [one], power_cap_w=5.5)
    assert within.candidate == FP32 and "node 5.3 W <= cap 5.5 W" in within.reason
    beyond = choose(replace(BUDGET, power_w=0.4), [one], power_cap_w=5.0)
    assert beyond.verdicts[0].reason == "power 0.5 W > 0.4 W; node 5.3 W > cap 5 W"
    assert choose(replace(BUDGET, power_w=0.5), [one]).candidate == FP32
    without_rest = choose(BUDGET, [measured(joules=0.03)], power_cap_w=0.2)
    assert without_rest.verdicts[0].reason == "power 0.3 W > cap 0.2 W"


def test_power_that_cannot_be_checked_is_said() -> None:
    choice = choose(replace(BUDGET, power_w=0.5), [measured()])
    assert choice.candidate == FP32
    assert "power could not be checked against 0.5 W (budget)" in choice.reason
    assert "(node's cap)" in choose(BUDGET, [measured()], power_cap_w=3.0).reason


def test_few_runs_are_said() -> None:
    choice = choose(BUDGET, [replace(measured(), confidence=0.63, runs=100)])
    assert "p99 5 ms <= 20 ms (at 63% confidence, 100 runs)" in choice.reason


def test_a_tie_keeps_the_incumbent() -> None:
    both = [measured(FP32, joules=0.00104), measured(INT8, joules=0.001, accuracy=0.99)]
    assert choose(BUDGET, both).candidate == INT8
    kept = choose(BUDGET, both, incumbent=FP32)
    assert kept.candidate == FP32
    assert "kept because it runs already" in kept.reason
    assert "tied with" in verdict_of(kept, INT8).reason


def test_an_incumbent_that_costs_more_than_a_tie_goes() -> None:
    both = [measured(FP32, joules=0.00106), measured(INT8, joules=0.001)]
    assert choose(BUDGET, both, incumbent=FP32).candidate == INT8


def test_a_tie_goes_to_accuracy() -> None:
    both = [measured(FP32, joules=0.00104, accuracy=0.99), measured(INT8, joules=0.001, accuracy=0.97)]
    choice = choose(BUDGET, both)
    assert choice.candidate == FP32
    assert "preferred for accuracy" in choice.reason


def test_a_failed_candidate_stays_out() -> None:
    failed = Verdict(FP32, False, "GoldenMismatch: 0.3 off")
    choice = choose(BUDGET, [measured(FP32, 1.0), measured(INT8, 9.0)], [failed])
    assert choice.candidate == INT8
    assert verdict_of(choice, FP32) == failed


def test_nothing_measured_gives_the_reasons() -> None:
    failed = [Verdict(Candidate(f"v{i}", "litert", "cpu"), False, f"ModelLoadError: {i}") for i in range(5)]
    assert choose(BUDGET, [], failed).reason == (
        "no candidate could be measured: v0 on cpu (litert): ModelLoadError: 0; "
        "v1 on cpu (litert): ModelLoadError: 1; v2 on cpu (litert): ModelLoadError: 2; and 2 more"
    )
    assert "no variant for a device of this node" in choose(BUDGET, []).reason


# A node that rests at 4 W; the GPU is fast and costly, the FPGA between, the CPU slow and frugal.
FAST = measured(GPU, 1.0, 0.01, holding_w=2.0, rest_w=4.0)
MIDDLE = measured(FPGA, 1.4, 0.006, holding_w=0.8, rest_w=4.0)
SLOW = measured(FP32, 3.1, 0.005, rest_w=4.0)
TIGHT = Budget(latency_p99_ms=1.5, rate_hz=10.0)


def again(
    *measurements: Measurement,
    budget: Budget = TIGHT,
    cap: float | None = None,
    incumbent: Candidate | None = GPU,
    lost: dict[str, str] | None = None,
) -> Choice:
    verdicts = [Verdict(m.candidate, m.candidate == incumbent, "as it was", m) for m in measurements]
    return replan(budget, verdicts, cap, incumbent, lost or {})


def test_what_runs_stays_where_it_is_best_under_the_cap() -> None:
    kept = again(FAST, SLOW, cap=7.0)
    assert kept.candidate == GPU and "node 6.1 W <= cap 7 W" in kept.reason
    moved = again(FAST, MIDDLE, SLOW, cap=5.0)
    assert moved.candidate == FPGA
    assert verdict_of(moved, GPU).reason == "node 6.1 W > cap 5 W"


def test_the_cap_is_kept_and_the_latency_missed() -> None:
    choice = again(FAST, SLOW, cap=5.0)
    assert choice.candidate == FP32
    assert choice.reason == (
        "node's cap 5 W: fp16 on gpu would draw 6.1 W; p99 3.1 ms > 1.5 ms is missed until the cap rises"
    )
    assert verdict_of(choice, FP32) == Verdict(FP32, True, choice.reason, SLOW)
    assert verdict_of(choice, GPU).reason == "node 6.1 W > cap 5 W"
    assert again(FAST, SLOW, cap=7.0, incumbent=FP32).candidate == GPU  # the cap has risen


def test_a_cap_that_nobody_keeps_is_broken_least() -> None:
    choice = again(FAST, SLOW, cap=2.0)
    assert choice.candidate == FP32
    assert choice.reason == (
        "no candidate keeps the node's cap 2 W; the closest is fp32 on cpu: p99 3.1 ms > 1.5 ms; "
        "node 4.05 W > cap 2 W"
    )


def test_a_budget_that_nobody_meets_any_more_is_missed_least() -> None:
    choice = again(FAST, MIDDLE, SLOW, budget=replace(TIGHT, latency_p99_ms=0.5))
    assert choice.candidate == GPU
    assert choice.reason == "no candidate meets the budget; the closest is fp16 on gpu: p99 1 ms > 0.5 ms"


def test_answers_are_rather_late_than_wrong() -> None:
    wrong = replace(SLOW, candidate=INT8, accuracy=0.97, p99_ms=1.51)
    choice = again(SLOW, wrong, budget=replace(TIGHT, min_accuracy=0.975), incumbent=None)
    assert choice.candidate == FP32


def test_a_lost_device_is_left_and_its_figures_are_kept() -> None:
    choice = again(FAST, SLOW, budget=BUDGET, lost={"gpu": "fell off the bus"})
    assert choice.candidate == FP32
    assert choice.reason.startswith("gpu is lost: fell off the bus; the only feasible candidate")
    assert verdict_of(choice, GPU) == Verdict(GPU, False, "gpu is lost: fell off the bus", FAST)
    back = replan(TIGHT, choice.verdicts, None, choice.candidate, {})
    assert back.candidate == GPU and "lost" not in back.reason


def test_a_budget_that_only_the_lost_device_meets() -> None:
    choice = again(FAST, SLOW, lost={"gpu": "DeviceLost"})
    assert choice.candidate == FP32
    assert choice.reason == "gpu is lost: DeviceLost; p99 3.1 ms > 1.5 ms is missed until gpu is back"


def test_nothing_is_left_when_every_device_is_lost() -> None:
    never = Verdict(INT8, False, "ModelLoadError: corrupt")
    choice = replan(TIGHT, [Verdict(GPU, True, "", FAST), never], None, GPU, {"gpu": "gone"})
    assert choice.candidate is None
    assert choice.reason == "gpu is lost: gone; nothing else here can run it"
    assert verdict_of(choice, INT8) == never


def test_a_lost_device_that_the_model_never_ran_on_is_not_spoken_of() -> None:
    nowhere = Verdict(Candidate("fp32", "none", "fpga"), False, "made for cpu; fpga is a fpga")
    choice = replan(BUDGET, [Verdict(FP32, True, "", SLOW), nowhere], None, FP32, {"fpga": "gone"})
    assert choice.candidate == FP32 and "lost" not in choice.reason
    assert nowhere in choice.verdicts


# Properties, over random measurements around random limits.
positive = st.floats(0.01, 100.0)
budgets = st.builds(
    Budget,
    latency_p99_ms=positive,
    rate_hz=st.floats(0.0, 200.0),
    power_w=st.none() | positive,
    min_accuracy=st.none() | st.floats(0, 1),
)


@st.composite
def several(draw: st.DrawFn) -> list[Measurement]:
    candidates = [Candidate(v, "some", d) for v in ("a", "b") for d in ("cpu", "gpu", "fpga")]
    chosen = draw(st.lists(st.sampled_from(candidates), unique=True, max_size=6))
    return [
        measured(
            candidate,
            p99_ms=draw(positive),
            mean_ms=draw(positive),
            joules=draw(st.none() | positive),
            accuracy=draw(st.none() | st.floats(0, 1)),
            holding_w=draw(st.none() | st.floats(0, 10)),
            rest_w=draw(st.none() | positive),
        )
        for candidate in chosen
    ]


def feasible(budget: Budget, cap: float | None, m: Measurement) -> bool:
    return (
        keeps(budget, cap, m)
        and (budget.power_w is None or m.joules is None or average(budget, m) <= budget.power_w)
        and m.p99_ms <= budget.latency_p99_ms
        and budget.rate_hz * m.mean_ms / 1e3 <= 0.7
        and (budget.min_accuracy is None or (m.accuracy is not None and m.accuracy >= budget.min_accuracy))
    )


def average(budget: Budget, m: Measurement) -> float:
    return budget.rate_hz * (m.joules or 0.0) + (m.holding_w or 0.0)


def keeps(budget: Budget, cap: float | None, m: Measurement) -> bool:
    return cap is None or m.joules is None or average(budget, m) + (m.rest_w or 0.0) <= cap


def costs(budget: Budget, eligible: list[Measurement]) -> list[float]:
    if any(m.joules is None for m in eligible):
        return [m.p99_ms for m in eligible]
    return [average(budget, m) if budget.rate_hz else m.holding_w or 0.0 for m in eligible]


@given(budgets, several(), st.none() | positive, st.randoms(use_true_random=False))
def test_the_choice_is_feasible_the_best_and_fully_explained(
    budget: Budget, measurements: list[Measurement], cap: float | None, order: random.Random
) -> None:
    failed = [Verdict(m.candidate, False, "failed") for m in measurements[:1]]
    incumbent = order.choice(measurements).candidate if measurements else None
    choice = choose(budget, measurements, failed, cap, incumbent)

    eligible = [m for m in measurements[1:] if feasible(budget, cap, m)]
    assert (choice.candidate is not None) == bool(eligible)
    if choice.measurement is not None:
        assert choice.measurement in eligible
        assert choice.measurement.candidate == choice.candidate
        cost = costs(budget, eligible)
        mine = cost[eligible.index(choice.measurement)]
        assert all(mine <= other * (1 + TIE) * (1 + 1e-9) for other in cost)
    assert sorted(str(v.candidate) for v in choice.verdicts) == sorted(str(m.candidate) for m in measurements)
    assert [v.candidate for v in choice.verdicts if v.chosen] == [choice.candidate] * bool(eligible)
    assert all(v.reason for v in choice.verdicts)
    assert choice.reason

    shuffled = order.sample(measurements, len(measurements))
    assert choose(budget, shuffled, failed, cap, incumbent) == choice


lost_devices = st.sets(st.sampled_from(["cpu", "gpu", "fpga"])).map(
    lambda names: dict.fromkeys(names, "gone")
)


@given(budgets, several(), st.none() | positive, lost_devices, st.randoms(use_true_random=False))
def test_a_model_that_runs_never_goes_to_a_lost_device_and_keeps_the_cap_if_it_can_be_kept(
    budget: Budget,
    measurements: list[Measurement],
    cap: float | None,
    lost: dict[str, str],
    order: random.Random,
) -> None:
    incumbent = order.choice(measurements).candidate if measurements else None
    verdicts = [Verdict(m.candidate, False, "before", m) for m in measurements]
    verdicts.append(Verdict(Candidate("c", "some", "cpu"), False, "failed"))
    choice = replan(budget, verdicts, cap, incumbent, lost)

    here = [m for m in measurements if m.candidate.device not in lost]
    assert (choice.candidate is None) == (not here)
    assert choice.reason
    assert {v.candidate: v.measurement for v in choice.verdicts} == {
        v.candidate: v.measurement for v in verdicts
    }
    assert [v.candidate for v in choice.verdicts if v.chosen] == [choice.candidate] * bool(here)
    if choice.measurement is not None:
        assert choice.measurement in here
        assert keeps(budget, cap, choice.measurement) or not any(keeps(budget, cap, m) for m in here)
        eligible = [m for m in here if feasible(budget, cap, m)]
        assert choice.measurement in eligible or not eligible
        least = min(costs(budget, eligible), default=0.0)
        if budget.rate_hz:
            for m, cost in zip(eligible, costs(budget, eligible), strict=True):
                if m.candidate == incumbent and cost <= least * (1 + TIE) * (1 - 1e-9):
                    assert choice.candidate == incumbent

    again = [
        replace(verdict, reason="told otherwise") if verdict.measurement else verdict for verdict in verdicts
    ]
    assert replan(budget, order.sample(again, len(again)), cap, incumbent, lost) == choice
