from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.placement.plan import TIE, Choice, VariantInfo, candidates_for, choose
from agent.types import BackendInfo, BoardInfo, Budget, Candidate, DeviceInfo, Measurement, Verdict

BUDGET = Budget(latency_p99_ms=20.0, rate_hz=10.0)
FP32, INT8 = Candidate("fp32", "onnxruntime", "cpu"), Candidate("int8", "onnxruntime", "cpu")
LITERT = Candidate("int8-tflite", "litert", "cpu")


def measured(
    candidate: Candidate = FP32,
    p99_ms: float = 5.0,
    joules: float | None = None,
    accuracy: float | None = 0.98,
    mean_ms: float | None = None,
) -> Measurement:
    mean = p99_ms / 2 if mean_ms is None else mean_ms
    energy = "missing" if joules is None else "measured"
    return Measurement(candidate, 1000, mean, mean, p99_ms, 0.99, 0.1, 30.0, accuracy, joules, energy)


def verdict_of(choice: Choice, candidate: Candidate) -> Verdict:
    (found,) = [verdict for verdict in choice.verdicts if verdict.candidate == candidate]
    return found


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
    assert "least energy, 1 mJ, of 2 feasible candidates" in choice.reason
    assert "p99 9 ms <= 20 ms" in choice.reason
    assert verdict_of(choice, FP32).reason == (
        "feasible, but more energy than int8 on cpu (onnxruntime): 4 mJ > 1 mJ"
    )


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
    candidates = [Candidate(v, b, "cpu") for v in ("a", "b", "c") for b in ("onnxruntime", "litert")]
    chosen = draw(st.lists(st.sampled_from(candidates), unique=True, max_size=6))
    return [
        measured(
            candidate,
            p99_ms=draw(positive),
            mean_ms=draw(positive),
            joules=draw(st.none() | positive),
            accuracy=draw(st.none() | st.floats(0, 1)),
        )
        for candidate in chosen
    ]


def feasible(budget: Budget, cap: float | None, m: Measurement) -> bool:
    limit = min((w for w in (budget.power_w, cap) if w is not None), default=None)
    return (
        m.p99_ms <= budget.latency_p99_ms
        and budget.rate_hz * m.mean_ms / 1e3 <= 0.7
        and (budget.min_accuracy is None or (m.accuracy is not None and m.accuracy >= budget.min_accuracy))
        and (limit is None or m.joules is None or budget.rate_hz * m.joules <= limit)
    )


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
        cost = [m.joules if all(e.joules is not None for e in eligible) else m.p99_ms for m in eligible]
        mine = cost[eligible.index(choice.measurement)]
        assert mine is not None
        assert all(mine <= other * (1 + TIE) * (1 + 1e-9) for other in cost if other is not None)
    assert sorted(str(v.candidate) for v in choice.verdicts) == sorted(str(m.candidate) for m in measurements)
    assert [v.candidate for v in choice.verdicts if v.chosen] == [choice.candidate] * bool(eligible)
    assert all(v.reason for v in choice.verdicts)
    assert choice.reason

    shuffled = order.sample(measurements, len(measurements))
    assert choose(budget, shuffled, failed, cap, incumbent) == choice
