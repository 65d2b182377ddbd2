"""What plans go by: steps that keep noise out, and lose nothing for good."""

from __future__ import annotations

from tests.unit.placement.adapting.world import World, demand


def test_a_device_that_is_well_again_is_planned_with_as_it_was_profiled() -> None:
    world = World(demand(latency_ms=24.1))  # the CPU takes 24
    world.run(5)
    world.slow = {"cpu": 1.1}
    world.run(20)
    assert world.place("digits") == "gpu"
    world.slow = {}
    world.run(120)
    assert world.place("digits") == "cpu"


def test_little_is_no_reason_to_plan_again() -> None:
    world = World(demand())
    world.run(5)
    world.slow = {"cpu": 1.02}
    before = world.state.planned
    world.run(20)
    assert world.state.slowdowns["cpu"].mean > 1.01 and world.state.planned is before
