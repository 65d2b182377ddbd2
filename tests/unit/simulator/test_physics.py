from __future__ import annotations

import copy
import itertools
import math
import statistics
from dataclasses import astuple, dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.faults import Happening
from simulator.physics import MIN_CLOCK, NO_OVERLAY, QUANTILES, BoardState, Physics
from simulator.profile import Base, Throttle, Zone
from tests.unit.simulator.small import CPU, FPGA, GPU, IDLE_W, happening, laws, small_board

DEVICES = ("cpu", "gpu", "fpga")
END_S = 4.0


@dataclass(frozen=True)
class Act:
    """Something that happens to a board at a time. ``what``: run, load, hold or release."""

    at_s: float
    what: str
    device: int
    amount: float


def times(most: float = END_S) -> st.SearchStrategy[float]:
    return st.floats(0, most)


def faults() -> st.SearchStrategy[list[Happening]]:
    device = st.sampled_from(DEVICES)
    lasts = st.floats(0.01, 2.0)
    one = st.one_of(
        st.builds(lambda v, a, f: happening("thermal-step", "", v, a, f), st.floats(-40, 60), times(), lasts),
        st.builds(lambda d, v, a, f: happening("throttle", d, v, a, f), device, st.floats(0.05, 0.9), times(), lasts),
        st.builds(lambda d, v, a, f: happening("co-tenant", d, v, a, f), device, st.floats(0.05, 0.9), times(), lasts),
        st.builds(lambda v, a, f: happening("power-cap", "", v, a, f), st.floats(4, 20), times(), lasts),
        st.builds(lambda d, a, f: happening("device-lost", d, None, a, f), device, times(), lasts),
        st.builds(lambda a, f: happening("brown-out", "", None, a, f), times(), lasts),
    )  # fmt: skip
    return st.lists(one, max_size=4)


def traces() -> st.SearchStrategy[list[Act]]:
    kinds = st.sampled_from(["run", "run", "run", "load", "hold", "release"])
    act = st.builds(Act, times(), kinds, st.integers(0, 2), st.floats(0.001, 0.3))
    return st.lists(act, max_size=30).map(lambda acts: sorted(acts, key=lambda each: each.at_s))


def play(physics: Physics, state: BoardState, act: Act) -> None:
    physics.advance(state, act.at_s)
    if act.what == "run":
        physics.run(state, act.device, act.amount, act.at_s)
    elif act.what == "load":
        physics.load(state, act.device, act.amount, 3.0 * act.amount, act.at_s)
    elif act.what == "hold":
        state.held[act.device] += 1
    elif state.held[act.device]:
        state.held[act.device] -= 1


def numbers(state: BoardState) -> list[float]:
    return [
        float(n) for each in astuple(state) for n in (each if isinstance(each, (list, tuple)) else [each])
    ]


@settings(max_examples=40, deadline=None)
@given(faults(), traces())
def test_energy_is_the_integral_of_power(happenings: list[Happening], acts: list[Act]) -> None:
    physics = laws(*happenings)
    state = BoardState.at_rest(physics.profile, 0.0)
    step_s = 0.002
    summed = [0.0] * 4
    queue = list(acts)
    for step in range(int(END_S / step_s)):
        time = step * step_s
        while queue and queue[0].at_s <= time:
            play(physics, state, queue.pop(0))
        physics.advance(state, time)
        base_w, device_w = physics.draw(state)
        summed = [total + w * step_s for total, w in zip(summed, (base_w, *device_w), strict=True)]
    physics.advance(state, END_S)
    # A rectangle is off where the power changes within its step: at most once for each fault's start and end, each
    # run's start and end, each throttle point.
    changes = 2 * len(happenings) + 2 * len(acts) + 20
    for total, joules, most_w in zip(
        summed, (state.base_j, *state.device_j), (2.0, 8.5, 24.0, 5.0), strict=True
    ):
        assert total == pytest.approx(joules, abs=changes * step_s * most_w + 1e-9, rel=1e-9)


def test_energy_is_exact_between_events() -> None:
    """The same with known numbers: idle, a run, a model held."""
    physics = laws()
    state = BoardState.at_rest(physics.profile, 0.0)
    physics.advance(state, 10.0)
    interval = physics.run(state, GPU, 0.5, 10.0)
    state.held[GPU] += 1
    physics.advance(state, 20.0)
    assert astuple(interval) == pytest.approx((10.0, 10.5, 5.0))
    assert state.base_j == pytest.approx(40.0)
    assert state.device_j == pytest.approx([10.0, 20.0 + 30.0 + 5.0, 4.0])
    assert state.busy_s == [0.0, 0.5, 0.0]


@settings(max_examples=60, deadline=None)
@given(faults(), traces(), st.lists(times(), max_size=10))
def test_looking_changes_nothing(happenings: list[Happening], acts: list[Act], looks: list[float]) -> None:
    """Two advances equal one, wherever they are."""
    physics = laws(*happenings)
    plain, looked = (BoardState.at_rest(physics.profile, 0.0) for _ in range(2))
    pending = sorted(looks)
    for act in (*acts, Act(END_S, "release", CPU, 0.0)):
        while pending and pending[0] <= act.at_s:
            physics.advance(looked, pending.pop(0))
        play(physics, looked, act)
        play(physics, plain, act)
    # A level that is reached exactly at a look may be counted at the next one.
    for state in (plain, looked):
        physics.advance(state, END_S + 1e-6)
    assert numbers(looked) == pytest.approx(numbers(plain), rel=1e-6, abs=1e-6)


@given(st.floats(0, 100), st.floats(-100, 100))
def test_time_never_goes_back(time: float, other: float) -> None:
    physics = laws()
    state = BoardState.at_rest(physics.profile, 0.0)
    physics.advance(state, time)
    before = copy.deepcopy(state)
    physics.advance(state, min(time, other))
    assert state == before
    assert physics.run(state, CPU, 0.1, other).start == max(time, other, 0.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(times(), st.floats(0, 0.5)), min_size=1, max_size=40))
def test_a_device_works_in_order_and_without_gaps(requests: list[tuple[float, float]]) -> None:
    physics = laws(profile=small_board(jitter=0.2))
    state = BoardState.at_rest(physics.profile, 0.0)
    free, worked, joules = 0.0, 0.0, 0.0
    for arrival, seconds in sorted(requests):
        interval = physics.run(state, GPU, seconds, arrival)
        assert interval.start == max(arrival, free)
        assert interval.end >= interval.start
        free = interval.end
        worked += interval.seconds
        joules += interval.joules
    physics.advance(state, free + 1.0)
    assert state.busy_s[GPU] == pytest.approx(worked)
    assert state.runs[GPU] == len(requests)
    assert state.device_j[GPU] == pytest.approx(
        1.0 * (free + 1.0) + joules
    )  # idle and runs, however they queued


def test_devices_do_not_wait_for_each_other() -> None:
    physics = laws()
    state = BoardState.at_rest(physics.profile, 0.0)
    physics.run(state, CPU, 5.0, 1.0)
    assert physics.run(state, GPU, 1.0, 2.0).start == 2.0


# -- heat --------------------------------------------------------------------------------------------------------------


def test_at_rest_is_where_idling_leads() -> None:
    physics = laws()
    state = BoardState.at_rest(physics.profile, 0.0)
    assert state.temp_c == pytest.approx([33.5, 22.0])
    physics.advance(state, 1e6)
    assert state.temp_c == pytest.approx([33.5, 22.0])


@given(st.floats(0, 3.0), st.integers(0, 1))
def test_settles_at_ambient_and_r_times_p(watts: float, held: int) -> None:
    physics = laws()
    state = BoardState.at_rest(physics.profile, 0.0)
    state.held[FPGA] = held
    physics.load(state, FPGA, 1e6, watts * 1e6, 0.0)
    physics.advance(state, 1e3)
    assert state.temp_c[0] == pytest.approx(20 + 5 * (2.0 + 0.5 + 0.2 + 0.3 * held + watts))
    assert state.temp_c[1] == pytest.approx(22.0)  # the other zone feels nothing


def test_warms_up_with_its_time_constant() -> None:
    physics = laws()
    state = BoardState.at_rest(physics.profile, 0.0)
    physics.load(state, GPU, 100.0, 1000.0, 0.0)
    physics.advance(state, 20.0)  # R C = 2 x 10
    assert state.temp_c[1] == pytest.approx(22.0 + 20.0 * (1 - math.exp(-1)))


@given(st.floats(7.5, 16.0))
def test_throttles_at_its_point_and_until_hysteresis_below(watts: float) -> None:
    """``watts``: enough for the first point (50 C needs 3.3 more), and from 7.3 on for the second (70 C)."""
    physics = laws()
    state = BoardState.at_rest(physics.profile, 0.0)
    physics.load(state, FPGA, 1e3, watts * 1e3, 0.0)
    goal, tau = 33.5 + 5 * watts, 10.0
    moment = 0.0
    for level, at_c in enumerate((50.0, 70.0)):
        moment = tau * math.log((goal - 33.5) / (goal - at_c))
        physics.advance(state, moment - 1e-6)
        assert (state.level[0], physics.clock(state, CPU)) == (level, (1.0, 0.5)[level])
        physics.advance(state, moment + 1e-6)
        assert (state.level[0], physics.clock(state, CPU)) == (level + 1, (0.5, 0.25)[level])
        assert state.temp_c[0] == pytest.approx(at_c, abs=1e-4)
    assert physics.clock(state, GPU) == 1.0  # another zone
    physics.advance(state, 1e3)
    assert state.temp_c[0] == pytest.approx(goal, abs=1e-3)
    for level, below_c in ((2, 67.0), (1, 46.0)):
        moment = 1e3 + tau * math.log((goal - 33.5) / (below_c - 33.5))
        physics.advance(state, moment - 1e-3)
        assert [state.level[0], state.temp_c[0]] == pytest.approx([level, below_c], abs=1e-2)
        physics.advance(state, moment + 1e-3)
        assert [state.level[0], state.temp_c[0]] == pytest.approx([level - 1, below_c], abs=1e-2)
    assert physics.clock(state, CPU) == 1.0


def test_stays_throttled_where_it_settles_within_hysteresis() -> None:
    """48 C: below the point at 50 C, not below 46 C."""
    physics = laws()
    cool, hot = (BoardState.at_rest(physics.profile, 0.0) for _ in range(2))
    physics.load(hot, FPGA, 10.0, 100.0, 0.0)
    for state in (cool, hot):
        physics.advance(state, 10.0)
        physics.load(state, FPGA, 1e3, 2.9e3, 10.0)
        physics.advance(state, 500.0)
        assert state.temp_c[0] == pytest.approx(48.0)
    assert (cool.level[0], hot.level[0]) == (0, 1)


def test_a_point_whose_hysteresis_reaches_below_another() -> None:
    """The temperature stays what it is when a level is left that it had long left behind."""
    throttle = (
        Throttle(at_c=50.0, factor=0.5, hysteresis_c=1.0),
        Throttle(at_c=60.0, factor=0.25, hysteresis_c=20.0),
    )
    zones = (Zone(name="soc", r_c_per_w=5.0, c_j_per_c=2.0, throttle=throttle), small_board().zones[1])
    physics = laws(profile=small_board(zones=zones))
    state = BoardState.at_rest(physics.profile, 0.0)
    physics.load(state, FPGA, 100.0, 1000.0, 0.0)
    physics.advance(state, 100.0)
    assert state.level[0] == 2
    seen = []
    for step in range(1, 400):
        physics.advance(state, 100.0 + 0.1 * step)
        seen.append(state.temp_c[0])
        assert state.level[0] == (2 if state.temp_c[0] > 40.0 else 0)
    assert all(late < early for early, late in itertools.pairwise(seen))


def test_a_board_that_idles_above_its_point_throttles_at_once() -> None:
    physics = laws(profile=small_board(base=Base(watts=8.0, zone="soc")))
    state = BoardState.at_rest(physics.profile, 0.0)
    physics.advance(state, 1.0)
    assert state.level[0] == 1
    assert state.temp_c[0] == pytest.approx(20 + 5 * 8.7)


def test_heat_from_a_co_tenant_swings_between_throttle_and_recovery() -> None:
    """Slowed it draws too little to stay hot, at full clock too much to stay cool: the level goes up and down."""
    physics = laws(happening("co-tenant", "cpu", 0.9))
    state = BoardState.at_rest(physics.profile, 0.0)  # 3.6 W more: 51.5 C at full clock, 38 C at half of it
    levels = []
    for step in range(3000):
        physics.advance(state, 0.1 * step)
        levels.append(state.level[0])
    turns = sum(early != late for early, late in itertools.pairwise(levels))
    assert max(levels) == 1
    assert turns > 6
    assert 45.9 < state.temp_c[0] < 50.1


@given(st.floats(-60, 20))
def test_a_thermal_step_moves_where_it_settles(step_c: float) -> None:
    physics = laws(happening("thermal-step", "", step_c, at_s=1.0, for_s=1000.0))
    state = BoardState.at_rest(physics.profile, 0.0)
    physics.advance(state, 1.0)
    assert state.temp_c == pytest.approx([33.5, 22.0])
    physics.advance(state, 1001.0)
    assert state.temp_c == pytest.approx([33.5 + step_c, 22.0 + step_c])
    physics.advance(state, 2001.0)
    assert state.temp_c == pytest.approx([33.5, 22.0])


# -- how long runs take ------------------------------------------------------------------------------------------------


def run_times(jitter: float, seed: int, count: int = QUANTILES) -> list[float]:
    physics = laws(profile=small_board(jitter=jitter), seed=seed)
    state = BoardState.at_rest(physics.profile, 0.0)
    return [physics.run(state, CPU, 1.0, 0.0).seconds for _ in range(count)]


@pytest.mark.parametrize("jitter", [0.01, 0.05, 0.3])
def test_run_times_vary_as_the_profile_says(jitter: float) -> None:
    found = run_times(jitter, 0)
    assert statistics.fmean(found) == pytest.approx(1.0, rel=1e-3)
    assert statistics.pstdev(found) == pytest.approx(jitter, rel=0.02)
    sigma = math.sqrt(math.log(1 + jitter**2))
    p99 = math.exp(sigma * statistics.NormalDist().inv_cdf(0.99) - sigma**2 / 2)
    assert sorted(found)[int(0.99 * QUANTILES)] == pytest.approx(p99, rel=2e-3)


def test_no_jitter_is_no_variation() -> None:
    assert set(run_times(0.0, 0, 10)) == {1.0}


def test_run_times_are_the_seed_s() -> None:
    assert run_times(0.1, 7, 50) == run_times(0.1, 7, 50)
    assert run_times(0.1, 7, 50) != run_times(0.1, 8, 50)
    # In no order: neighbours are as far apart as strangers.
    found = run_times(0.1, 7)
    steps = statistics.fmean((b - a) ** 2 for a, b in itertools.pairwise(found))
    assert steps == pytest.approx(2 * 0.1**2, rel=0.1)


def test_devices_vary_apart() -> None:
    physics = laws(profile=small_board(jitter=0.1))
    state = BoardState.at_rest(physics.profile, 0.0)
    cpu, gpu = ([physics.run(state, i, 1.0, 0.0).seconds for _ in range(20)] for i in (CPU, GPU))
    assert cpu != gpu


def test_a_throttled_device_takes_longer_for_less() -> None:
    physics = laws(happening("throttle", "gpu", 0.5))
    state = BoardState.at_rest(physics.profile, 0.0)
    assert astuple(physics.run(state, GPU, 1.0, 0.0)) == pytest.approx((0.0, 2.0, 10.0 * 0.25 * 2))
    assert physics.run(state, CPU, 1.0, 0.0).seconds == 1.0


def test_a_co_tenant_slows_and_draws() -> None:
    physics = laws(happening("co-tenant", "gpu", 0.4, for_s=10.0))
    state = BoardState.at_rest(physics.profile, 0.0)
    assert physics.draw(state)[1][GPU] == pytest.approx(1.0 + 4.0)
    assert astuple(physics.run(state, GPU, 0.6, 0.0)) == pytest.approx((0.0, 1.0, 6.0))
    assert physics.draw(state)[1][GPU] == pytest.approx(1.0 + 10.0)  # together the whole device
    physics.advance(state, 10.0)
    assert state.device_j[GPU] == pytest.approx(10.0 + 40.0 + 6.0)
    assert physics.draw(state)[1][GPU] == pytest.approx(1.0)


@settings(max_examples=80, deadline=None)
@given(st.floats(6.0, 20.0), traces())
def test_a_power_cap_holds_where_clocks_can(cap_w: float, acts: list[Act]) -> None:
    """Runs alone: what is loaded, and what holding it draws, no clock changes."""
    physics = laws(happening("power-cap", "", cap_w))
    state = BoardState.at_rest(physics.profile, 0.0)
    lowest_w = IDLE_W + MIN_CLOCK**2 * (4.0 + 10.0 + 1.0)
    assert cap_w > lowest_w
    for act in acts:
        physics.run(state, act.device, act.amount, act.at_s)
        base_w, device_w = physics.draw(state)
        # A device that finds no room left runs at MIN_CLOCK nevertheless.
        assert base_w + sum(device_w) <= cap_w + lowest_w - IDLE_W + 1e-9


def test_a_power_cap_slows_no_more_than_it_must() -> None:
    physics = laws(happening("power-cap", "", IDLE_W + 2.5))
    state = BoardState.at_rest(physics.profile, 0.0)
    interval = physics.run(state, GPU, 1.0, 0.0)
    base_w, device_w = physics.draw(state)
    assert base_w + sum(device_w) == pytest.approx(IDLE_W + 2.5)
    assert interval.seconds == pytest.approx(2.0)  # a quarter of the power: half of the clock
    assert physics.run(state, GPU, 1.0, 0.0).seconds == pytest.approx(2.0)  # the next one, when that is done
    assert physics.run(state, FPGA, 0.01, 0.0).seconds == pytest.approx(
        0.01 / MIN_CLOCK
    )  # nothing is left for it
    ample = laws(happening("power-cap", "", 50.0))
    assert ample.run(BoardState.at_rest(ample.profile, 0.0), GPU, 1.0, 0.0).seconds == 1.0


# -- losses ------------------------------------------------------------------------------------------------------------


def test_a_brown_out() -> None:
    physics = laws(happening("brown-out", at_s=1.0, for_s=2.0))
    state = BoardState.at_rest(physics.profile, 0.0)
    state.overlay[FPGA] = 0
    state.held[GPU] = 1
    physics.run(state, CPU, 10.0, 0.0)
    physics.advance(state, 1.0)
    before = copy.deepcopy(state)
    physics.advance(state, 3.0)
    assert (state.base_j, state.device_j) == (before.base_j, before.device_j)
    assert state.temp_c[1] < before.temp_c[1]
    assert state.overlay == [NO_OVERLAY] * 3
    assert physics.draw(state) == (2.0, [0.5, 4.0, 0.2])  # the run was dropped, the rest is as before
    assert state.busy_s[CPU] == pytest.approx(1.0)
    assert astuple(physics.run(state, CPU, 1.0, 3.0)) == pytest.approx((3.0, 4.0, 4.0))


def test_a_lost_device_draws_nothing_and_drops_its_work() -> None:
    physics = laws(happening("device-lost", "gpu", at_s=1.0, for_s=1.0))
    state = BoardState.at_rest(physics.profile, 0.0)
    physics.run(state, GPU, 5.0, 0.0)
    physics.run(state, CPU, 5.0, 0.0)
    physics.advance(state, 1.5)
    assert physics.draw(state) == (2.0, [4.5, 0.0, 0.2])
    physics.advance(state, 2.0)
    assert physics.draw(state) == (2.0, [4.5, 1.0, 0.2])
    assert state.device_j[GPU] == pytest.approx(11.0)
    assert physics.run(state, GPU, 1.0, 2.0).start == 2.0


def test_many_faults_at_once_leave_a_board_that_moves() -> None:
    """Twenty co-tenants and throttles on one device neither divide by zero nor stop it for good."""
    many = [
        happening(kind, "cpu", 0.99 if kind == "co-tenant" else 0.01) for kind in ("co-tenant", "throttle")
    ] * 20
    physics = laws(*many)
    state = BoardState.at_rest(physics.profile, 0.0)
    assert physics.run(state, CPU, 0.001, 0.0).seconds == pytest.approx(0.001 / 0.01 / 0.01)
