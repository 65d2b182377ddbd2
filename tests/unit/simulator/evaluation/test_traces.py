"""Traces: drawn from a seed, feasible at their start, and no test trace like one that policies are tuned on."""

from __future__ import annotations

import typing
from dataclasses import fields

import pytest

from simulator.evaluation.contract import Contract, Known, Truth, at
from simulator.evaluation.models import Cut, model, queue_p99
from simulator.evaluation.traces import FAMILIES, SPLITS, Split, Trace, board, make_trace
from simulator.faults import Timeline
from simulator.scenario.measure import measure_model
from simulator.speed import run_seconds

EVERY = [(family, split) for family in FAMILIES for split in typing.get_args(Split)]


@pytest.mark.parametrize(("family", "split"), EVERY)
def test_a_trace_comes_from_its_seed(family: str, split: Split) -> None:
    assert make_trace(family, split, 3) == make_trace(family, split, 3)
    assert make_trace(family, split, 3).workloads != make_trace(family, split, 4).workloads
    other: Split = "tune" if split == "test" else "test"
    assert make_trace(family, split, 3).scenario.seed != make_trace(family, other, 3).scenario.seed


def test_no_range_of_the_tests_overlaps_one_of_tuning() -> None:
    for field in fields(SPLITS["tune"]):
        tune, test = (getattr(SPLITS[split], field.name) for split in ("tune", "test"))
        if field.name == "heavy":  # apart by little, since both must leave room beside another model
            assert tune[1] < test[0]
        elif isinstance(tune, tuple):
            assert tune[1] < test[0] or test[1] < tune[0], field.name
        else:
            assert tune < test


@pytest.mark.parametrize(("family", "split"), EVERY)
def test_every_model_has_a_place_within_its_budget_at_the_start(family: str, split: Split) -> None:
    for seed in range(4):
        trace = make_trace(family, split, seed)
        assert least_loss(trace) == 0.0, seed


def least_loss(trace: Trace) -> float:
    """Of the models that are there at the start, before anything happens to them."""
    contract = Contract(trace.profile)
    there = [workload for workload in trace.workloads if not workload.begins_s]
    known = []
    for workload in there:
        measured = {
            m.candidate: m for m in measure_model(trace.profile, trace.scenario.seed, workload).measurements
        }
        run_s = {c: run_seconds(trace.profile.device(c.device), workload.work[c.variant]) for c in measured}
        known.append(Known(workload.name, workload.budget, measured, run_s))
    truth = Truth(
        Timeline(trace.profile).at(0.0), (1.0,) * len(trace.profile.devices), trace.scenario.power_cap_w,
        tuple(at(workload.load.rates, 0) for workload in there),
    )  # fmt: skip
    worths = [contract.worth(known, joint, truth) for joint in contract.joints(known)]
    return min(worth.loss for worth in worths if worth is not None)


@pytest.mark.parametrize("family", FAMILIES)
def test_traces_last_minutes_and_their_events_lie_within(family: str) -> None:
    trace = make_trace(family, "test", 0)
    assert 300 <= trace.scenario.duration_s <= 600  # records have a bin for each second
    times = [at_s for at_s, _ in trace.events]
    assert times == sorted(times) and all(0 < time < trace.scenario.duration_s for time in times)
    requests = sum(workload.load.requests(trace.scenario.duration_s) for workload in trace.workloads)
    assert 100 < requests < 40_000


def test_rates_stay_below_what_the_budget_promises() -> None:
    for family, split in EVERY:
        for workload in make_trace(family, split, 1).workloads:
            assert max(rate for _, rate in workload.load.rates) <= workload.budget.rate_hz


def test_a_model_fills_the_device_that_it_is_cut_for() -> None:
    trio = board("trio")
    for kind, variant in (("cpu", "int8"), ("gpu", "int8"), ("fpga", "program")):
        made = model(trio, "m", Cut(kind, 20.0, 0.4, 2.0))
        device = next(d for d in trio.devices if d.kind == kind)
        assert run_seconds(device, made.work[variant]) * 20.0 == pytest.approx(0.4, rel=1e-3)
        assert made.budget.latency_p99_ms == pytest.approx(2.0 * queue_p99(0.4) * 0.4 / 20.0 * 1e3)


def test_the_tail_of_a_queue() -> None:
    # Of an M/D/1 queue at half load about one wait in a hundred is above 3.1 runs (Erlang's formula gives 3.13).
    assert queue_p99(0.5) == pytest.approx(1 + 3.13, abs=0.05)
    assert queue_p99(0.001) == pytest.approx(1.0, abs=0.01)
