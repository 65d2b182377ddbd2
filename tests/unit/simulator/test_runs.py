"""Runs on two devices: how long they take, what each device does for them, who waits for whom."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.placement.planning.candidates import VariantInfo
from agent.types import Budget, OverlayRef
from simulator.physics import BoardState, Interval, Physics
from simulator.profile import load_profile
from simulator.runs import Shared, parts_of, reserve_run
from simulator.scenario.files import Load
from simulator.scenario.measure import measure_model
from simulator.scenario.workload import Workload
from simulator.speed import RunTime, overlapped_s, run_time
from simulator.work import Work
from tests.unit.simulator.small import CPU, FPGA, GPU, IDLE_W, laws

RUN = RunTime(0.0, 0.4, 1, 0.1, 0.2, CPU, True)
PACKED = replace(RUN, before_s=0.01, after_s=0.02, waits=False)
WORK = Work(0, 0, "int8", OverlayRef("npu", 1, 16), 0.003, None, 0, 4_000_000, 2_000_000)


@pytest.fixture
def physics() -> Physics:
    return laws()


@pytest.fixture
def state(physics: Physics) -> BoardState:
    return BoardState.at_rest(physics.profile, 0.0)


def shared(interval: Interval) -> Shared:
    assert isinstance(interval, Shared)
    return interval


def one_by_one(each_s: float, before_s: float, after_s: float, samples: int) -> float:
    """The same, event by event, as ``agent.overlay.overlap`` does it."""
    now, ends, waiting = 0.0, 0.0, 0
    started = unpacked = 0
    while unpacked < samples:
        if waiting == 0 and started + waiting < samples:
            now += before_s
            waiting = 1
        running = started > unpacked
        if running:
            now = max(now, ends)
        done = running
        if waiting:
            ends, started, waiting = now + each_s, started + 1, 0
        if done:
            now += after_s
            unpacked += 1
    return now


@given(
    *(st.floats(0.0, 5.0) for _ in range(3)),
    st.integers(1, 9),
)
def test_how_long_samples_take_that_overlap(
    each_s: float, before_s: float, after_s: float, samples: int
) -> None:
    found = overlapped_s(each_s, before_s, after_s, samples)
    assert found == pytest.approx(one_by_one(each_s, before_s, after_s, samples))
    alone = samples * (before_s + each_s + after_s)
    assert max(samples * each_s, samples * (before_s + after_s)) <= found + 1e-9 <= alone + 2e-9


def test_both_devices_work_and_draw(physics: Physics, state: BoardState) -> None:
    interval = shared(reserve_run(physics, state, FPGA, RUN, 0.0))
    assert (interval.start, interval.end) == pytest.approx((0.0, 0.7))
    assert parts_of(interval, "fpga") == pytest.approx({"cpu": 0.3, "fpga": 0.4})
    assert interval.joules == pytest.approx(0.4 * 1.0 + 0.3 * 4.0)
    physics.advance(state, 10.0)
    assert state.busy_s == pytest.approx([0.3, 0.0, 0.4])
    spent = state.base_j + sum(state.device_j)
    assert spent == pytest.approx(10 * IDLE_W + interval.joules)


def test_samples_of_a_batch_overlap(physics: Physics, state: BoardState) -> None:
    interval = shared(reserve_run(physics, state, FPGA, replace(RUN, samples=4), 0.0))
    assert interval.seconds == pytest.approx(0.1 + 4 * 0.4 + 0.2)
    assert (interval.own_s, interval.cpu_s) == pytest.approx((1.6, 1.2))


def test_a_cpu_segment_waits_for_the_cpu_and_packing_does_not(physics: Physics, state: BoardState) -> None:
    physics.run(state, CPU, 1.0, 0.0)
    waits = reserve_run(physics, state, FPGA, RUN, 0.0)
    assert (waits.start, waits.end) == pytest.approx((1.0, 1.7))
    assert waits.seconds == pytest.approx(0.7)  # its own time
    state = BoardState.at_rest(physics.profile, 0.0)
    physics.run(state, CPU, 1.0, 0.0)
    packed = reserve_run(physics, state, FPGA, PACKED, 0.0)
    assert packed.end == pytest.approx(0.43)
    assert parts_of(packed, "fpga") == {}  # packing does not make a program one of two devices
    assert packed.joules == pytest.approx(0.4 * 1.0 + 0.03 * 4.0)
    assert physics.run(state, CPU, 1.0, 0.0).start == pytest.approx(1.03)  # what it took is gone for others


def test_it_waits_for_the_fpga_and_for_the_run_before(physics: Physics, state: BoardState) -> None:
    physics.run(state, FPGA, 0.5, 0.0)
    late = reserve_run(physics, state, FPGA, RUN, 0.0)
    assert late.end == pytest.approx(0.5 + 0.4 + 0.2)  # packed meanwhile
    assert late.seconds == pytest.approx(0.7)
    after = reserve_run(physics, state, FPGA, PACKED, 0.0, free=late.end)
    assert after.end == pytest.approx(late.end + 0.43)


def test_a_run_on_one_device_is_a_plain_one(physics: Physics, state: BoardState) -> None:
    interval = reserve_run(physics, state, GPU, RunTime(0.1, 0.4), 0.0)
    assert type(interval) is Interval
    assert interval.seconds == pytest.approx(0.5)
    assert parts_of(interval, "gpu") == {}


def test_how_long_the_parts_of_a_program_take() -> None:
    profile = laws().profile
    plain = run_time(profile, FPGA, WORK)
    assert plain == RunTime(0.0, 0.0005 + 0.003, 1, 0.004, 0.002, CPU, False)
    mixed = run_time(profile, FPGA, replace(WORK, beside=Work(4_000_000, 0, "int8")), 3)
    assert (mixed.samples, mixed.cpu, mixed.waits) == (3, CPU, True)
    assert mixed.after_s == pytest.approx(0.002 + 0.001 + 0.001)
    assert run_time(profile, CPU, WORK, 3).cpu is None
    alone = profile.model_copy(update={"devices": profile.devices[1:]})
    assert run_time(alone, FPGA - 1, WORK) == RunTime(0.0, 0.0035)


def test_a_scenario_measures_the_parts_of_a_program() -> None:
    profile = load_profile("kv260")
    ref = OverlayRef("npu", 1, 16)
    variant = VariantInfo("program", "npu", "int8", ("fpga",), 0.9, ref)
    budget = Budget(50.0, 10.0)
    load_ = Load(folder="m", budget=budget)
    parts = {}
    for name, beside in (("plain", None), ("mixed", Work(3_200_000, 0, "int8"))):
        work = Work(0, 0, "int8", ref, 0.003, beside, 0, 3000, 3000)
        profiled = measure_model(
            profile, 0, Workload(name, "1", budget, (variant,), {"program": work}, load_)
        )
        (measured,) = profiled.measurements
        parts[name] = dict(measured.parts)
        assert measured.mean_ms == pytest.approx(sum(parts[name].values()) or 3.12, rel=0.01)
    assert parts["plain"] == {}
    assert parts["mixed"] == pytest.approx({"cpu": 1.152, "fpga": 3.12}, rel=0.01)
