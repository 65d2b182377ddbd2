"""Scenarios in event time, on a board of round numbers."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from agent.placement.planning.candidates import VariantInfo
from simulator.clock import RealClock
from simulator.faults import Fault
from simulator.scenario.files import Cap
from simulator.scenario.moves import VERIFY_S
from simulator.scenario.record import percentile_ms
from tests.unit.simulator.scenario import INT8, Stage, moves, told, workload
from tests.unit.simulator.small import CPU, FPGA, GPU, small_board

ONLY_CPU = VariantInfo("int8", "onnx", "int8", ("cpu",), 0.9)
ONLY_FPGA = VariantInfo("int8", "onnx", "int8", ("fpga",), 0.9)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


def accounted(summary: dict[str, object]) -> bool:
    models = summary["models"]
    assert isinstance(models, list)
    return all(m["requests"] == m["answered"] + m["failed"] + m["unfinished"] for m in models)


# -- requests ----------------------------------------------------------------------------------------------------------


def test_regular_requests_follow_the_rates() -> None:
    times = list(workload(arrivals="regular", rate=((0, 10), (5, 0), (7, 2))).arrivals(1, 10.0))
    assert times == pytest.approx([i / 10 for i in range(50)] + [7 + i / 2 for i in range(6)])


def test_poisson_requests_rise_have_the_rate_and_come_from_the_seed() -> None:
    one = workload(rate_hz=100.0)
    times = list(one.arrivals(1, 100.0))
    assert all(early < late for early, late in pairwise(times)) and times[0] > 0 and times[-1] < 100
    assert len(times) == pytest.approx(10_000, abs=4 * math.sqrt(10_000))
    assert times == list(one.arrivals(1, 100.0)) != list(one.arrivals(2, 100.0))
    assert times != list(workload("other", rate_hz=100.0).arrivals(1, 100.0))


def test_percentiles_are_within_a_per_cent() -> None:
    counts: dict[int, int] = {}
    for micros in range(1000, 2000):
        bucket = int(math.log2(micros) * 64)
        counts[bucket] = counts.get(bucket, 0) + 1
    assert percentile_ms(counts, 0.5) == pytest.approx(1.5, rel=0.006)
    assert percentile_ms(counts, 0.99) == pytest.approx(1.99, rel=0.006)
    assert percentile_ms({}, 0.5) is None


# -- a quiet scenario --------------------------------------------------------------------------------------------------


def test_latency_and_energy_are_those_of_the_board(stage: Stage) -> None:
    outcome = stage.run(workload(p99_ms=2.9, arrivals="regular"), duration_s=60.0)
    summary = told(outcome)
    (model,) = summary["models"]
    (row,) = model["by_candidate"]
    assert row["candidate"]["device"] == "fpga" and moves(outcome) == [(None, "fpga", "start")]
    assert model["requests"] == model["answered"] == 1200 and model["within_budget"] == 1.0
    assert row["p50_ms"] == row["p99_ms"] == pytest.approx(1.5, rel=0.006)
    assert row["joules_per_run"] == pytest.approx(1.5e-3)
    parts = summary["power"]["joules_by_part"]
    assert parts["base"] == pytest.approx(2.0 * 60)
    assert parts["cpu"] == pytest.approx(0.5 * 60)
    assert parts["fpga"] == pytest.approx(0.5 * 60 + 1200 * 1.5e-3)  # idle and held, and its runs
    assert summary["power"]["joules"] == pytest.approx(sum(parts.values()))
    assert summary["power"]["mean_w"] == pytest.approx(summary["power"]["joules"] / 60)
    assert summary["heat"]["throttled_s"] == 0


def test_the_energy_told_is_that_of_the_cell_since_the_start(stage: Stage) -> None:
    fault = Fault(kind="device-lost", target="fpga", at_s=20, for_s=10)
    outcome = stage.run(workload(p99_ms=2.9), faults=(fault,))
    summary, state = told(outcome), outcome.cell.state
    loading_s = state.time - 60.0
    assert state.base_j - summary["power"]["joules_by_part"]["base"] == pytest.approx(2.0 * loading_s)
    assert state.device_j[GPU] - summary["power"]["joules_by_part"]["gpu"] == pytest.approx(1.0 * loading_s)
    series = summary["series"]
    drawn = sum(sum(watts) * series["bin_s"] for watts in series["watts"].values())
    assert drawn == pytest.approx(summary["power"]["joules"])


def test_two_runs_tell_the_same_and_another_seed_something_else(stage: Stage) -> None:
    stage.board = small_board(jitter=0.05)
    faults = (Fault(kind="device-lost", target="fpga", at_s=10, for_s=15),)

    def once(seed: int) -> dict[str, object]:
        return told(stage.run(workload(p99_ms=2.9), workload("n", rate_hz=5.0), seed=seed, faults=faults))

    assert once(1) == once(1)
    assert once(1)["models"] != once(2)["models"]


def test_real_time_gives_what_event_time_gives(stage: Stage) -> None:
    cpu = stage.board.devices[CPU].model_copy(update={"load_s": 0.05})
    stage.board = small_board(devices=(cpu,), rails=())
    one = workload(arrivals="regular")
    real, event = (told(stage.run(one, duration_s=1.0, clock=clock)) for clock in (RealClock(), None))
    assert real["models"][0]["answered"] == event["models"][0]["answered"] == 20
    assert real["power"]["joules"] == pytest.approx(event["power"]["joules"], rel=0.05)


# -- the operator's cap ------------------------------------------------------------------------------------------------


def test_a_lower_cap_moves_the_model_without_a_failed_request(stage: Stage) -> None:
    # 3.7 W at rest; 20/s cost 0.33 W on the FPGA and 0.24 W on the CPU, which misses the budget.
    caps = (Cap(at_s=20, watts=4.0), Cap(at_s=40))
    outcome = stage.run(workload(p99_ms=2.9), caps=caps)
    assert moves(outcome) == [
        (None, "fpga", "start"),
        ("fpga", "cpu", "cap none -> 4 W"),
        ("cpu", "fpga", "cap 4 W -> none"),
    ]
    assert (
        "node's cap 4 W" in outcome.decisions[1].reason
        and "until the cap rises" in outcome.decisions[1].reason
    )
    # Make before break: decided at once, in force when it is loaded (the overlay stays) and has run for a while.
    assert [(d.decided_s, d.time_s) for d in outcome.decisions[1:]] == [
        pytest.approx((20.0, 20.5 + VERIFY_S), abs=0.01), pytest.approx((40.0, 40.325), abs=0.01),
    ]  # fmt: skip
    (model,) = told(outcome)["models"]
    assert model["failed"] == 0 and 0.6 < model["within_budget"] < 0.8


def test_a_cap_that_nothing_keeps_leaves_the_model_where_it_is_and_says_so(stage: Stage) -> None:
    outcome = stage.run(workload(p99_ms=2.9, variant=ONLY_FPGA), caps=(Cap(at_s=20, watts=3.0),))
    assert moves(outcome) == [(None, "fpga", "start")]
    assert "cap 3 W is below its rest" in outcome.decisions[-1].reason
    summary = told(outcome)
    assert summary["switches"] == 0 and summary["models"][0]["failed"] == 0
    assert summary["power"]["over_cap_s"] == pytest.approx(40.0)


def test_a_model_that_nothing_can_run_in_its_budget_is_refused(stage: Stage) -> None:
    summary = told(stage.run(workload(p99_ms=0.1), workload("n")))
    refused, served = summary["models"]
    assert "no candidate meets the budget" in refused["refused"] and refused["requests"] == 0
    assert served["refused"] is None and served["answered"] > 0


# -- faults ------------------------------------------------------------------------------------------------------------


def test_a_lost_device_fails_requests_until_another_takes_over_and_is_used_again_when_back(
    stage: Stage,
) -> None:
    fault = Fault(kind="device-lost", target="fpga", at_s=20, for_s=15)
    outcome = stage.run(workload(p99_ms=2.9), faults=(fault,))
    assert moves(outcome) == [
        (None, "fpga", "start"), ("fpga", "gpu", "fpga is lost"), ("gpu", "fpga", "fpga is back"),
    ]  # fmt: skip
    summary = told(outcome)
    (model,) = summary["models"]
    assert set(model["failures"]) == {"DeviceLost"} and model["failed"] <= 1.0 * 20 * 2  # while the GPU loads
    assert model["failed"] > 0 and accounted(summary)
    back = outcome.decisions[-1]
    assert 40.0 < back.time_s < 41.5  # tried every 10 s since it was found lost


def test_a_model_without_another_device_is_not_served_until_its_own_is_back(stage: Stage) -> None:
    fault = Fault(kind="device-lost", target="fpga", at_s=20, for_s=5)
    outcome = stage.run(workload(p99_ms=2.9, variant=ONLY_FPGA), faults=(fault,))
    (model,) = told(outcome)["models"]
    assert moves(outcome) == [(None, "fpga", "start"), (None, "fpga", "fpga is back")]
    assert outcome.decisions[1].new is None and "is lost" in outcome.decisions[1].reason
    assert model["failures"]["DeviceLost"] == 1 and model["failures"]["shed"] > 50
    served = outcome.models[0].record.served
    assert max(number for each in served.values() for number in each.bins) == 59  # to the end


def test_a_brown_out_stops_everything_and_the_overlay_is_loaded_again(stage: Stage) -> None:
    outcome = stage.run(workload(p99_ms=2.9), faults=(Fault(kind="brown-out", at_s=20, for_s=5),))
    summary = told(outcome)
    assert sum(summary["series"]["watts"]["base"][20:25]) == 0
    assert summary["models"][0]["failures"] and accounted(summary)
    assert outcome.cell.state.overlay[FPGA] == 0 and moves(outcome)[-1][1] == "fpga"


def test_an_overlay_that_does_not_load_leaves_the_model_to_another_device(stage: Stage) -> None:
    fault = Fault(kind="overlay-load-failure", target="fpga", at_s=0, for_s=30)
    outcome = stage.run(workload(p99_ms=2.9), faults=(fault,))
    assert moves(outcome) == [(None, "gpu", "fpga is lost"), ("gpu", "fpga", "fpga is back")]
    assert "does not take the overlay" in outcome.decisions[0].reason
    assert told(outcome)["models"][0]["failed"] == 0


def test_transfers_that_do_not_end_lose_the_device_after_three(stage: Stage) -> None:
    fault = Fault(kind="dma-timeout", target="fpga", value=0.1, at_s=20, for_s=20)
    outcome = stage.run(workload(p99_ms=2.9), faults=(fault,))
    assert moves(outcome)[1:] == [("fpga", "gpu", "fpga is lost"), ("gpu", "fpga", "fpga is back")]
    assert set(told(outcome)["models"][0]["failures"]) == {"DmaTimeout"}


def test_heat_throttles_and_slows(stage: Stage) -> None:
    fault = Fault(kind="thermal-step", value=25.0, at_s=20, for_s=20)
    quiet, hot = (told(stage.run(workload(variant=ONLY_FPGA), faults=each)) for each in ((), (fault,)))
    assert quiet["heat"]["throttled_s"] == 0 and 5 < hot["heat"]["throttled_s"] < 30
    assert hot["heat"]["highest_c"]["soc"] > 50
    assert (
        quiet["models"][0]["by_candidate"][0]["p99_ms"] * 1.5 < hot["models"][0]["by_candidate"][0]["p99_ms"]
    )


def test_more_requests_than_a_device_serves_are_turned_away(stage: Stage) -> None:
    heavy = workload(p99_ms=1000.0, rate_hz=100.0, variant=ONLY_CPU, rate=((0, 100), (20, 1000)))
    (model,) = told(stage.run(heavy, duration_s=30.0))["models"]
    assert model["failures"].keys() == {"too many wait"}
    assert model["by_candidate"][0]["p99_ms"] == pytest.approx(128 * 3.0, rel=0.02)  # as many as may wait


def test_models_share_a_device(stage: Stage) -> None:
    variants = [INT8, VariantInfo("int8", "onnx", "int8", ("fpga",), 0.9)]
    outcome = stage.run(*(workload(f"m{i}", p99_ms=8.0, variant=v) for i, v in enumerate(variants)))
    assert outcome.cell.state.held == [0, 0, 2]
    parts = told(outcome)["power"]["joules_by_part"]
    runs = sum(model["answered"] for model in told(outcome)["models"])
    assert parts["fpga"] == pytest.approx(0.5 * 60 + runs * 1.5e-3, rel=1e-3)  # held once, whoever holds it
