from __future__ import annotations

from dataclasses import replace

from agent.placement.adapting.look import Move
from agent.placement.adapting.order import Step, in_turn
from agent.types import Measurement
from tests.unit.placement.adapting.world import FAST, LEAN, SLOW, SMALL

OTHER = replace(LEAN, overlay=SMALL)


def step(model: str, here: Measurement | None, there: Measurement | None, rate_hz: float = 10.0) -> Step:
    return Step(Move(model, there.candidate if there else None, "why", "where"), here, there, rate_hz)


def order(*steps: Step) -> list[str]:
    moves = in_turn(steps)
    assert moves == in_turn(steps[::-1])
    return [move.model for move in moves]


def test_the_draw_falls_before_it_rises() -> None:
    assert order(step("a", SLOW, FAST), step("b", FAST, SLOW), step("c", SLOW, None)) == ["b", "c", "a"]


def test_who_holds_an_overlay_leaves_before_another_enters() -> None:
    # leaving raises the draw, entering lowers it
    assert order(step("a", FAST, OTHER), step("b", LEAN, FAST)) == ["b", "a"]
    assert order(step("a", SLOW, OTHER), step("b", LEAN, FAST), step("c", FAST, SLOW)) == ["b", "c", "a"]


def test_overlays_that_stay_order_nothing() -> None:
    assert order(step("a", SLOW, LEAN), step("b", FAST, SLOW), step("c", LEAN, SLOW, 1.0)) == ["b", "c", "a"]
