from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import pytest

from agent.placement.profile import Gate
from agent.placement.profile.gate import MIN_SLICE_S, REPORT_S, SLICE_S
from tests.unit.placement.profile.world import World, in_event_time


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    in_event_time(monkeypatch, world)
    return world


def slices(
    world: World, quiet: Callable[[], bool], patience_s: float, wanted_s: float
) -> list[tuple[float, float]]:
    """(when, how long) each slice of ``wanted_s`` in all was, until the gate shut."""
    found: list[tuple[float, float]] = []

    async def run() -> None:
        gate, left = Gate(quiet, patience_s, world.clock), wanted_s
        while left > 1e-9 and (allowed := await gate.wait(left)) > 0:
            found.append((world.time, allowed))
            world.pass_time(allowed, 0.0)
            left -= allowed

    asyncio.run(run())
    return found


def test_without_anybody_late_nothing_is_waited_for(world: World) -> None:
    started = world.time
    found = slices(world, lambda: True, 0.0, 1.0)
    assert [length for _, length in found] == pytest.approx([SLICE_S] * 10)
    assert world.time - started == pytest.approx(1.0)


def test_a_model_that_each_slice_makes_late_is_disturbed_less_and_less(world: World) -> None:
    """Late reports come a second after the slice, and last a second."""
    ran: list[float] = []

    def quiet() -> bool:
        return not any(0.9 <= world.time - at <= 1.9 for at in ran)

    async def run() -> None:
        gate = Gate(quiet, 60.0, world.clock)
        for _ in range(24):
            allowed = await gate.wait(1.0)
            ran.append(world.time)
            world.pass_time(allowed, 0.0)
            lengths.append(allowed)

    lengths: list[float] = []
    started = world.time
    asyncio.run(run())
    # From the first lateness that is noticed on, slices halve and are a report apart.
    assert lengths[-1] == pytest.approx(MIN_SLICE_S)
    assert all(after <= before for before, after in itertools.pairwise(lengths))
    careful = [at for at in ran if at - started > 1.0]
    assert min(after - before for before, after in itertools.pairwise(careful)) >= REPORT_S
    assert MIN_SLICE_S / REPORT_S < 0.01  # of the time in the end, as a 99th percentile allows


def test_patience_is_bounded(world: World) -> None:
    started = world.time
    assert slices(world, lambda: False, 3.0, 1.0) == []
    assert world.time - started == pytest.approx(3.0, abs=0.1)


def test_patience_counts_though_the_clock_goes_back(world: World) -> None:
    async def run() -> float:
        return await Gate(lambda: False, 1.0, lambda: -world.time).wait(1.0)

    assert asyncio.run(run()) == 0.0


def test_without_patience_the_gate_shuts_at_once(world: World) -> None:
    started = world.time
    assert slices(world, lambda: False, 0.0, 1.0) == []
    assert world.time == started
