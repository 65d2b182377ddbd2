from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from agent.errors import MeterError, WorkerCrashed
from agent.placement import profile
from agent.placement.profile import Bracket, beside, energy_per_run, holding_watts, idle_watts, measure
from agent.types import Candidate, Measurement

CANDIDATE = Candidate("fp32", "onnxruntime", "cpu")


class World:
    """A clock that sleeping and running move, and a model that draws ``busy_w`` above ``idle_w``."""

    def __init__(self, idle_w: float = 3.0, busy_w: float = 2.0, run_s: float = 0.001) -> None:
        self.time, self.energy = 100.0, 0.0
        self.idle_w, self.busy_w, self.run_s = idle_w, busy_w, run_s

    def clock(self) -> float:
        return self.time

    def pass_time(self, seconds: float, watts: float) -> None:
        self.time += seconds
        self.energy += seconds * watts


class FakeWorker:
    """``hal`` of profile: runs take ``world.run_s`` and cost energy."""

    load_s, memory_mb = 0.25, 40.0

    def __init__(self, world: World) -> None:
        self.world = world
        self.calls: list[tuple[float, int]] = []

    async def profile(self, seconds: float, max_runs: int) -> list[float]:
        self.calls.append((seconds, max_runs))
        runs = max(1, min(max_runs, round(seconds / self.world.run_s)))
        self.world.pass_time(runs * self.world.run_s, self.world.idle_w + self.world.busy_w)
        return [self.world.run_s] * runs


class FakeMeter:
    """Reads the world's energy (or a share of it), or fails from the n-th reading on."""

    def __init__(
        self, world: World, share: float = 1.0, tag: str = "measured", fails_at: int | None = None
    ) -> None:
        self.rail, self.tag = "package-0", tag
        self._world, self._share, self._fails_at, self._readings = world, share, fails_at, 0

    def joules(self) -> float:
        self._readings += 1
        if self._fails_at is not None and self._readings >= self._fails_at:
            raise MeterError("gone")
        return self._world.energy * self._share


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    real_sleep = asyncio.sleep

    async def sleep(seconds: float) -> None:
        world.pass_time(seconds, world.idle_w)
        await real_sleep(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return world


def run(
    world: World,
    *meters: FakeMeter,
    seconds: float = 2.0,
    worker: FakeWorker | None = None,
    loading_w: float = 0.0,
) -> Measurement:
    """As a deployment does: the rest first, then a worker that is loaded, which adds ``loading_w``."""

    async def both() -> Measurement:
        rest_w = await idle_watts(meters, 0.4, world.clock)
        world.idle_w += loading_w
        return await measure(
            CANDIDATE, 0.98, worker or FakeWorker(world), meters, seconds, rest_w, clock=world.clock
        )

    return asyncio.run(both())


def test_latency_without_meters(world: World) -> None:
    worker = FakeWorker(world)
    got = run(world, worker=worker)
    assert (got.candidate, got.accuracy, got.load_s, got.memory_mb) == (CANDIDATE, 0.98, 0.25, 40.0)
    assert (got.mean_ms, got.p50_ms, got.p99_ms) == pytest.approx((1.0, 1.0, 1.0))
    assert got.runs == 1800
    assert got.confidence >= 0.99
    assert (got.joules, got.energy, got.holding_w, got.rest_w) == (None, "missing", None, None)
    assert [call[0] for call in worker.calls] == pytest.approx([0.2, 1.8])  # warm-up, then the runs
    assert [call[1] for call in worker.calls] == [20, 2000]


def test_the_number_of_runs_is_bounded(world: World) -> None:
    world.run_s = 1e-5
    assert run(world).runs == profile.MAX_RUNS


def test_a_run_longer_than_the_time_is_measured_once(world: World) -> None:
    world.run_s = 30.0
    got = run(world)
    assert (got.runs, got.p99_ms) == (1, 30_000)
    assert got.confidence == pytest.approx(0.01)


def test_energy_above_idle(world: World) -> None:
    got = run(world, FakeMeter(world))
    assert got.joules == pytest.approx(2.0 * 0.001)
    assert got.energy == "measured"
    assert got.rest_w == pytest.approx(3.0)


def test_what_loading_adds_to_idling_is_holding_power(world: World) -> None:
    got = run(world, FakeMeter(world, 0.5), FakeMeter(world, 0.5), loading_w=0.7)
    assert got.holding_w == pytest.approx(0.7)
    assert got.rest_w == pytest.approx(3.0)
    assert got.joules == pytest.approx(2.0 * 0.001)  # a run does not pay for it again
    assert got.average_w(10.0) == pytest.approx(0.72)


@pytest.mark.parametrize("loading_w", [0.009, 0.0, -1.0])
def test_holding_power_within_the_noise_is_none(world: World, loading_w: float) -> None:
    assert run(world, FakeMeter(world), loading_w=loading_w).holding_w == 0.0


def test_holding_power_is_not_told_from_a_drift_as_large() -> None:
    assert holding_watts(Bracket(3.0, 1), Bracket(3.2, 1), 3.0) == 0.0
    assert holding_watts(Bracket(3.0, 1), Bracket(3.2, 1), 2.5) == pytest.approx(0.6)
    assert holding_watts(None, Bracket(3.2, 1), 3.0) is None
    assert holding_watts(Bracket(3.0, 1), Bracket(3.2, 1), None) is None


def test_rails_are_summed(world: World) -> None:
    got = run(world, FakeMeter(world, 0.25), FakeMeter(world, 0.75))
    assert got.joules == pytest.approx(2.0 * 0.001)


def test_a_simulated_board_says_so(world: World) -> None:
    got = run(world, FakeMeter(world, 0.5, "simulated"), FakeMeter(world, 0.5, "simulated"))
    assert got.energy == "simulated"


@pytest.mark.parametrize("tag", ["estimated", "simulated"])
def test_one_rail_that_is_not_measured_makes_an_estimate(world: World, tag: str) -> None:
    assert run(world, FakeMeter(world, 0.5), FakeMeter(world, 0.5, tag)).energy == "estimated"


def test_a_fast_model_runs_until_slow_meters_have_seen_it(world: World) -> None:
    world.run_s = 1e-5
    worker = FakeWorker(world)
    started = world.time
    got = run(world, FakeMeter(world), worker=worker)
    assert got.runs == profile.MAX_RUNS
    assert len(worker.calls) > 10
    assert world.time - started == pytest.approx(0.4 + 2.0, abs=0.25)
    assert got.joules == pytest.approx(2.0 * 1e-5)


@pytest.mark.parametrize("fails_at", [1, 2, 4])
def test_a_meter_that_fails_makes_energy_missing(world: World, fails_at: int) -> None:
    got = run(world, FakeMeter(world), FakeMeter(world, fails_at=fails_at))
    assert (got.joules, got.energy) == (None, "missing")
    assert got.p50_ms == pytest.approx(1.0)


class Glitch(FakeMeter):
    """Shows something else at one reading."""

    def __init__(self, world: World, at: int, value: Callable[[float], float]) -> None:
        super().__init__(world)
        self._at, self._value = at, value

    def joules(self) -> float:
        joules = super().joules()
        return self._value(joules) if self._readings == self._at else joules


@pytest.mark.parametrize(
    "value", [lambda _: float("nan"), lambda j: j + 1e6, lambda j: j - 1e6, lambda _: float("inf")]
)
def test_a_glitch_at_any_reading_makes_energy_missing_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, value: Callable[[float], float]
) -> None:
    async def sleep(seconds: float) -> None:
        world.pass_time(seconds, world.idle_w)
        await real_sleep(0)

    real_sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", sleep)
    world = World()
    steady = FakeMeter(world)
    run(world, steady)
    for at in range(1, steady._readings + 1):
        world.time, world.energy = 100.0, 0.0
        got = run(world, Glitch(world, at, value))
        assert (got.joules, got.holding_w, got.rest_w, got.energy) == (None, None, None, "missing"), at
        assert got.p50_ms == pytest.approx(1.0)


@pytest.mark.parametrize("busy_w", [-1.0, 0.0, 5000.0])
def test_absurd_energy_is_missing(world: World, busy_w: float) -> None:
    world.busy_w = busy_w
    assert run(world, FakeMeter(world)).energy == "missing"


def test_idle_brackets_that_disagree_make_energy_missing() -> None:
    assert energy_per_run(Bracket(3, 1), Bracket(5, 1), Bracket(3, 1), 10) == pytest.approx(0.2)
    assert energy_per_run(Bracket(1, 1), Bracket(5, 1), Bracket(9, 1), 10) is None
    assert energy_per_run(Bracket(3, 1), None, Bracket(3, 1), 10) is None
    assert energy_per_run(Bracket(3, 1), Bracket(5, 1), Bracket(3, 1), 0) is None


class SlowSensor(FakeMeter):
    """Converts every ``period_s``, and shows the last conversion until the next."""

    def __init__(self, world: World, period_s: float) -> None:
        super().__init__(world)
        self._period_s, self._shown = period_s, (-1e9, 0.0)

    def joules(self) -> float:
        now, joules = self._world.clock(), super().joules()
        if now - self._shown[0] >= self._period_s:
            self._shown = now, joules
        return self._shown[1]


@pytest.mark.parametrize("period_s", [0.1, 0.25])
def test_a_slow_sensor_is_waited_for(world: World, period_s: float) -> None:
    """Ten conversions a second, as a Raspberry Pi's: brackets of 0.1 s would hold one of them, or none."""
    world.energy = 7.0
    got = run(world, SlowSensor(world, period_s), seconds=0.5, loading_w=0.5)
    assert got.rest_w == pytest.approx(3.0, rel=0.05)
    assert got.holding_w == pytest.approx(0.5, rel=0.2)


def test_a_sensor_that_shows_nothing_new_is_not_waited_for_for_ever(world: World) -> None:
    started = world.time
    got = run(world, FakeMeter(world, 0.0), seconds=0.5)
    assert (got.joules, got.rest_w) == (None, None)  # nothing above idle was seen
    assert world.time - started < 0.4 + 0.5 + 3 * profile.MORE_S + 0.2


def test_a_crash_comes_through(world: World) -> None:
    class Crashing(FakeWorker):
        async def profile(self, seconds: float, max_runs: int) -> list[float]:
            if self.calls:
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
            if max_runs == profile.WARM_UP_RUNS:
                return [0.001]
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("profile")
            raise AssertionError

    started: asyncio.Event

    async def body(meters: Callable[[], list[FakeMeter]]) -> None:
        nonlocal started
        started = asyncio.Event()
        task = asyncio.ensure_future(
            measure(CANDIDATE, None, Endless(world), meters(), 1.0, 3.0, clock=world.clock)
        )
        await asyncio.wait_for(started.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == ["profile"]

    asyncio.run(body(lambda: [FakeMeter(world)] if with_meter else []))


def test_a_worker_that_is_loaded_meanwhile_is_counted_out() -> None:
    def on(device: str, holding_w: float, rest_w: float) -> Measurement:
        candidate = Candidate("int8", "onnxruntime", device)
        return Measurement(candidate, 9, 1, 1, 1, 0.9, 0.1, 1, None, 0.002, "measured", holding_w, rest_w)

    running = on("fpga", 0.2, 3.0)
    # The FPGA is configured for the running worker already: a second one seems to hold nothing.
    assert beside(on("fpga", 0.0, 3.2), running) == on("fpga", 0.2, 3.0)
    assert beside(on("cpu", 0.0, 3.2), running) == on("cpu", 0.0, 3.0)
    assert beside(on("cpu", 0.0, 3.2), None) == on("cpu", 0.0, 3.2)
    assert beside(on("cpu", 0.1, 3.0), on("cpu", 0.0, 3.0)) == on("cpu", 0.1, 3.0)
