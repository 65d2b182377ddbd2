from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from agent.errors import WorkerCrashed
from agent.placement.profile import Bracket, Gate, Profile, idle_watts, measure
from agent.placement.profile.measure import ARRIVALS, MAX_RUNS, WARM_UP_RUNS, open_rate
from agent.placement.profile.meters import MORE_S
from tests.unit.placement.profile.world import (
    CANDIDATE,
    FakeMeter,
    FakeWorker,
    Glitch,
    SlowSensor,
    World,
    in_event_time,
)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    in_event_time(monkeypatch, world)
    return world


def run(
    world: World,
    *meters: FakeMeter,
    seconds: float = 2.0,
    worker: FakeWorker | None = None,
    loading_w: float = 0.0,
    rate_hz: float = 1e6,  # without gaps
    clock: Callable[[], float] | None = None,
) -> Profile:
    """As a deployment does: the rest first, then a worker that is loaded, which adds ``loading_w``."""

    async def both() -> Profile:
        rest_w = await idle_watts(meters, 0.1 * seconds, clock or world.clock)
        world.idle_w += loading_w
        return await measure(
            CANDIDATE,
            0.98,
            worker or FakeWorker(world),
            meters,
            seconds,
            rest_w,
            rate_hz=rate_hz,
            clock=clock or world.clock,
        )

    return asyncio.run(both())


# -- latency ------------------------------------------------------------------------------------------------------


def test_latency_without_meters(world: World) -> None:
    worker = FakeWorker(world)
    started = world.time
    got = run(world, worker=worker).measurement
    assert (got.candidate, got.accuracy, got.load_s, got.memory_mb) == (CANDIDATE, 0.98, 0.25, 40.0)
    assert (got.mean_ms, got.p50_ms, got.p99_ms) == pytest.approx((1.0, 1.0, 1.0))
    assert got.runs > 1500
    assert got.confidence >= 0.99
    assert (got.joules, got.energy, got.holding_w, got.rest_w) == (None, "missing", None, None)
    assert world.time - started <= 2.1
    assert max(seconds for seconds, _ in worker.calls) <= 0.1  # slices


def test_the_number_of_runs_is_bounded(world: World) -> None:
    world.run_s = 1e-5
    assert run(world).closed.runs == MAX_RUNS


def test_a_run_longer_than_the_time_is_measured_once(world: World) -> None:
    world.run_s = 30.0
    worker = FakeWorker(world)
    got = run(world, worker=worker).measurement
    assert (got.runs, got.p99_ms) == (1, 30_000)
    assert got.confidence == pytest.approx(0.01)
    assert len(worker.calls) == 2  # one to warm up


def test_warming_up_ends_when_it_is_steady_and_is_bounded_when_it_never_is(world: World) -> None:
    class Warming(FakeWorker):
        """Twice as fast after each call, ``steps`` times; then steady."""

        def __init__(self, steps: int) -> None:
            super().__init__(world)
            self.steps, self.warm = steps, 0.0

        async def profile(self, seconds: float, max_runs: int) -> list[float]:
            world.run_s = 0.0005 * 2 ** max(0, self.steps - len(self.calls))
            times = await super().profile(seconds, max_runs)
            self.warm = self.warm or (world.time if world.run_s == 0.0005 else 0.0)
            return times

    got = run(world, worker=Warming(3)).measurement
    assert got.p99_ms == pytest.approx(0.5)  # none of the slow ones was counted
    endless = Warming(10_000)
    started, endless.steps = world.time, 40
    run(world, worker=endless, seconds=1.0)
    assert world.time - started < 60 or len(endless.calls) < 100


def test_a_model_that_is_steady_at_once_warms_up_briefly(world: World) -> None:
    worker = FakeWorker(world)
    got = run(world, worker=worker).closed
    total = sum(round(seconds / world.run_s) for seconds, _ in worker.calls)
    assert WARM_UP_RUNS <= total - got.runs <= 100


def test_parts_of_a_composite_run_are_told(world: World) -> None:
    worker = FakeWorker(world, parts={"fpga": 0.0007, "cpu": 0.0003})
    parts = dict(run(world, worker=worker).measurement.parts)
    assert parts == {"cpu": pytest.approx(0.3), "fpga": pytest.approx(0.7)}


# -- the open loop ------------------------------------------------------------------------------------------------


def test_what_idle_gaps_cost_raises_the_bound(world: World) -> None:
    worker = FakeWorker(world, cold_s=0.017)
    profile = run(world, worker=worker, rate_hz=20.0)
    got = profile.measurement
    assert profile.closed.p99_ms == pytest.approx(1.0)
    assert (got.p99_ms, got.open_p99_ms, got.p50_ms) == pytest.approx((18.0, 18.0, 1.0))
    assert profile.open is not None and profile.open.rate_hz == 20.0 and profile.open.runs >= ARRIVALS
    assert {rate for _, rate in worker.opened} == {20.0}
    assert sum(seconds for seconds, _ in worker.opened) == pytest.approx(0.4)


def test_a_closed_loop_that_is_slower_stays_the_bound(world: World) -> None:
    profile = run(world, worker=FakeWorker(world, cold_s=-0.0005), rate_hz=100.0)
    assert profile.measurement.p99_ms == pytest.approx(1.0)
    assert profile.measurement.open_p99_ms == pytest.approx(0.5)


def test_seldom_requests_are_hurried_so_that_some_come(world: World) -> None:
    for rate_hz in (0.0, 0.01):
        worker = FakeWorker(world, cold_s=0.017)
        got = run(world, worker=worker, rate_hz=rate_hz).measurement
        assert got.open_p99_ms == pytest.approx(18.0)
        assert [rate for _, rate in worker.opened] == pytest.approx([ARRIVALS / 0.4] * len(worker.opened))


@pytest.mark.parametrize(
    ("rate_hz", "mean_s", "seconds", "want"),
    [
        (100.0, 0.001, 0.4, 100.0),
        (700.0, 0.001, 0.4, None),  # no gaps are left
        (1.0, 0.001, 0.4, 12.5),  # hurried
        (1.0, 0.1, 0.4, 3.0),  # hurried, and still mostly idle
        (0.0, 0.9, 0.4, None),  # nobody would come
        (0.0, 0.001, 0.4, 12.5),
        (10.0, 0.001, 0.0, None),
        (float("nan"), 0.001, 0.4, None),
        (-1.0, 0.001, 0.4, None),
    ],
)
def test_the_rate_of_the_open_loop(rate_hz: float, mean_s: float, seconds: float, want: float | None) -> None:
    assert open_rate(rate_hz, mean_s, seconds) == (want if want is None else pytest.approx(want))


# -- energy -------------------------------------------------------------------------------------------------------


def test_energy_above_idle(world: World) -> None:
    got = run(world, FakeMeter(world)).measurement
    assert got.joules == pytest.approx(2.0 * 0.001)
    assert got.energy == "measured"
    assert got.rest_w == pytest.approx(3.0)
    assert got.joules_sigma == pytest.approx(0.0, abs=1e-5)


def test_power_that_varies_makes_the_interval_wider(world: World) -> None:
    class Uneven(FakeWorker):
        async def profile(self, seconds: float, max_runs: int) -> list[float]:
            world.busy_w = 2.0 + 1.5 * (-1) ** len(self.calls)
            return await super().profile(seconds, max_runs)

    got = run(world, FakeMeter(world), worker=Uneven(world)).measurement
    assert got.joules is not None and got.joules_sigma is not None
    assert 0.03 * got.joules < got.joules_sigma < 0.6 * got.joules
    assert abs(got.joules - 0.002) < 3 * got.joules_sigma


def test_what_loading_adds_to_idling_is_holding_power(world: World) -> None:
    got = run(world, FakeMeter(world, 0.5), FakeMeter(world, 0.5), loading_w=0.7).measurement
    assert got.holding_w == pytest.approx(0.7)
    assert got.rest_w == pytest.approx(3.0)
    assert got.joules == pytest.approx(2.0 * 0.001)  # a run does not pay for it again
    assert got.average_w(10.0) == pytest.approx(0.72)


@pytest.mark.parametrize("loading_w", [0.009, 0.0, -1.0])
def test_holding_power_within_the_noise_is_none(world: World, loading_w: float) -> None:
    assert run(world, FakeMeter(world), loading_w=loading_w).closed.holding_w == 0.0


def test_loading_costs_what_the_meters_saw_above_the_rest(world: World) -> None:
    async def load() -> Profile:
        return await measure(
            CANDIDATE, None, FakeWorker(world), [FakeMeter(world)], 1.0, 3.0,
            loading=Bracket(7.0, 0.5, (6.9, 7.1)), clock=world.clock,
        )  # fmt: skip

    assert asyncio.run(load()).measurement.load_j == pytest.approx(2.0)
    assert run(world, FakeMeter(world)).measurement.load_j is None


def test_rails_are_summed(world: World) -> None:
    got = run(world, FakeMeter(world, 0.25), FakeMeter(world, 0.75)).closed
    assert got.joules == pytest.approx(2.0 * 0.001)


def test_a_simulated_board_says_so(world: World) -> None:
    got = run(world, FakeMeter(world, 0.5, "simulated"), FakeMeter(world, 0.5, "simulated")).closed
    assert got.energy == "simulated"


@pytest.mark.parametrize("tag", ["estimated", "simulated"])
def test_one_rail_that_is_not_measured_makes_an_estimate(world: World, tag: str) -> None:
    assert run(world, FakeMeter(world, 0.5), FakeMeter(world, 0.5, tag)).closed.energy == "estimated"


def test_a_fast_model_runs_until_slow_meters_have_seen_it(world: World) -> None:
    world.run_s = 1e-5
    worker = FakeWorker(world)
    started = world.time
    got = run(world, FakeMeter(world), worker=worker).closed
    assert got.runs == MAX_RUNS
    assert len(worker.calls) > 10
    assert world.time - started <= 2.0 + 0.25
    assert got.joules == pytest.approx(2.0 * 1e-5)


# -- meters that misbehave ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails_at", [1, 2, 4])
def test_a_meter_that_fails_makes_energy_missing(world: World, fails_at: int) -> None:
    got = run(world, FakeMeter(world), FakeMeter(world, fails_at=fails_at)).measurement
    assert (got.joules, got.joules_sigma, got.energy) == (None, None, "missing")
    assert got.p50_ms == pytest.approx(1.0)


@pytest.mark.parametrize(
    "value", [lambda _: float("nan"), lambda j: j + 1e6, lambda j: j - 1e6, lambda _: float("inf")]
)
def test_a_glitch_at_any_reading_makes_energy_missing_and_nothing_else(
    world: World, value: Callable[[float], float]
) -> None:
    steady = FakeMeter(world)
    run(world, steady, seconds=1.0)
    for at in range(1, steady.readings + 1):
        world.time, world.energy = 100.0, 0.0
        got = run(world, Glitch(world, at, value), seconds=1.0).measurement
        assert (got.joules, got.holding_w, got.rest_w, got.energy) == (None, None, None, "missing"), at
        assert got.p50_ms == pytest.approx(1.0)


@pytest.mark.parametrize("busy_w", [-1.0, 0.0, 5000.0])
def test_absurd_energy_is_missing(world: World, busy_w: float) -> None:
    world.busy_w = busy_w
    assert run(world, FakeMeter(world)).measurement.energy == "missing"


@pytest.mark.parametrize("period_s", [0.1, 0.25])
def test_a_slow_sensor_is_waited_for(world: World, period_s: float) -> None:
    """Ten conversions a second, as a Raspberry Pi's: brackets of 0.05 s would hold one of them, or none."""
    world.energy = 7.0
    got = run(world, SlowSensor(world, period_s), seconds=0.5, loading_w=0.5).measurement
    assert got.rest_w == pytest.approx(3.0, rel=0.05)
    assert got.holding_w == pytest.approx(0.5, rel=0.2)
    assert got.joules == pytest.approx(0.002, rel=0.1)
    assert got.joules_sigma is not None and got.joules_sigma < 0.0005


def test_a_sensor_that_shows_nothing_new_is_not_waited_for_for_ever(world: World) -> None:
    started = world.time
    got = run(world, FakeMeter(world, 0.0), seconds=0.5).measurement
    assert (got.joules, got.rest_w) == (None, None)  # nothing above idle was seen
    assert world.time - started < 0.5 + 4 * MORE_S + 0.3


@pytest.mark.parametrize("with_meter", [False, True])
def test_a_clock_that_goes_back_or_stands_still_ends_nothing_and_stops_nothing(
    world: World, with_meter: bool
) -> None:
    readings = 0

    def jumping() -> float:
        nonlocal readings
        readings += 1
        return world.time - 3600.0 * (readings // 20)

    meters = [FakeMeter(world)] if with_meter else []
    got = run(world, *meters, clock=jumping).measurement
    assert got.p50_ms == pytest.approx(1.0)
    assert got.runs >= 100
    assert got.joules is None or 0.0 <= got.joules < 1.0


# -- the worker ---------------------------------------------------------------------------------------------------


def test_a_crash_comes_through(world: World) -> None:
    class Crashing(FakeWorker):
        async def profile(self, seconds: float, max_runs: int) -> list[float]:
            if len(self.calls) > 5:
                raise WorkerCrashed("SIGSEGV")
            return await super().profile(seconds, max_runs)

    for meters in ((), (FakeMeter(world),)):
        with pytest.raises(WorkerCrashed, match="SIGSEGV"):
            run(world, *meters, worker=Crashing(world))


@pytest.mark.parametrize("with_meter", [False, True])
def test_cancelling_stops_the_worker_call(world: World, with_meter: bool) -> None:
    ended: list[str] = []

    class Endless(FakeWorker):
        async def profile(self, seconds: float, max_runs: int) -> list[float]:
            if len(self.calls) < 5:
                return await super().profile(seconds, max_runs)
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("profile")
            raise AssertionError

    started: asyncio.Event

    async def body() -> None:
        nonlocal started
        started = asyncio.Event()
        meters = [FakeMeter(world)] if with_meter else []
        task = asyncio.ensure_future(
            measure(CANDIDATE, None, Endless(world), meters, 1.0, 3.0, clock=world.clock)
        )
        await asyncio.wait_for(started.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == ["profile"]

    asyncio.run(body())


# -- models in service --------------------------------------------------------------------------------------------


def test_measuring_pauses_while_a_model_in_service_is_late(world: World) -> None:
    late_until = world.time + 1.5

    def quiet() -> bool:
        return world.time >= late_until

    class Watching(FakeWorker):
        async def profile(self, seconds: float, max_runs: int) -> list[float]:
            assert quiet()
            return await super().profile(seconds, max_runs)

    async def both() -> Profile:
        gate = Gate(quiet, 20.0, world.clock)
        return await measure(
            CANDIDATE, None, Watching(world), [], 0.5, None, gate=gate, rate_hz=50.0, clock=world.clock
        )

    assert asyncio.run(both()).closed.runs > 100


def test_measuring_ends_with_few_runs_when_a_model_in_service_stays_late(world: World) -> None:
    started = world.time
    worker = FakeWorker(world)

    async def both() -> Profile:
        gate = Gate(lambda: False, 1.0, world.clock)
        meters = [FakeMeter(world)]
        return await measure(CANDIDATE, None, worker, meters, 2.0, 3.0, gate=gate, clock=world.clock)

    got = asyncio.run(both())
    assert (got.closed.runs, got.open) == (2, None)
    assert got.closed.confidence == pytest.approx(0.0199)
    assert worker.calls == [(0.0, 1), (0.0, 1)]
    assert world.time - started < 2.0 + 1.0 + 2 * MORE_S
