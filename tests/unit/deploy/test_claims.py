"""Who may have an FPGA take another overlay to be measured, and who is bridged for it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import replace

import pytest

from agent.deploy import claims
from agent.placement.demand import Demand
from agent.types import Budget, Candidate, OverlayRef
from tests.unit.deploy.figures import measurement

ONE, TWO = OverlayRef("npu", 1, 16), OverlayRef("npu-small", 1, 8)
FPGA, CPU = Candidate("v", "npu", "fpga"), Candidate("v", "program", "cpu")
MEASURED = measurement(CPU, 9.0, 0.1, 0.0), measurement(FPGA, 2.0, 0.01, 0.5, overlay=ONE)


def on_fpga(model: str, priority: int = 1) -> Demand:
    return Demand(model, Budget(10.0, 10.0, priority=priority), MEASURED, incumbent=FPGA)


class Node:
    """``stuck`` models cannot be bridged."""

    def __init__(self, *demands: Demand, stuck: str = "") -> None:
        self.demands = {demand.model: demand for demand in demands}
        self.turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.bridged: list[str] = []
        self.stuck = stuck

    async def bridge(self, model: str, device: str, overlay: OverlayRef) -> None:
        assert (device, overlay) == ("fpga", TWO) and self.turns[model].locked()
        self.bridged.append(model)
        if model != self.stuck:
            self.demands[model] = replace(self.demands[model], incumbent=CPU)

    async def ask(self, priority: int = 1, model: str = "new", overlay: OverlayRef = TWO) -> str:
        listed = lambda: tuple(self.demands.values())  # noqa: E731
        async with claims.of_newcomer(model, priority, listed, self.turns, self.bridge) as claim:
            first, again = await claim("fpga", overlay), await claim("fpga", overlay)
            assert first == again
            assert all(self.turns[name].locked() for name in self.bridged)
        assert not any(turn.locked() for turn in self.turns.values())
        return first


@pytest.mark.parametrize("theirs", [1, 2])
def test_who_runs_with_no_lower_priority_keeps_its_overlay(theirs: int) -> None:
    node = Node(on_fpga("camera-digits", theirs), on_fpga("low", 0))
    why = asyncio.run(node.ask())
    assert why == "fpga holds npu for camera-digits, whose priority is no lower" and not node.bridged


def test_who_runs_with_less_priority_is_bridged_once_and_stays_so_to_the_end() -> None:
    node = Node(on_fpga("low", 0), on_fpga("lower", 0))
    assert asyncio.run(node.ask()) == "" and node.bridged == ["low", "lower"]


def test_who_cannot_go_elsewhere_does_not_keep_more_priority_out() -> None:
    assert asyncio.run(Node(on_fpga("low", 0), stuck="low").ask()) == ""


def test_a_new_version_does_not_stand_in_its_own_way() -> None:
    node = Node(on_fpga("new"))
    assert asyncio.run(node.ask()) == "" and node.bridged == ["new"]


def test_the_same_overlay_another_device_and_who_is_elsewhere_are_not_in_the_way() -> None:
    node = Node(
        on_fpga("a", 9), replace(on_fpga("b", 9), incumbent=CPU), replace(on_fpga("c"), incumbent=None)
    )
    assert asyncio.run(node.ask(overlay=ONE)) == ""
    node.demands.pop("a")
    assert asyncio.run(node.ask()) == "" and not node.bridged


def test_who_leaves_while_its_turn_is_waited_for_is_not_bridged() -> None:
    async def scenario() -> None:
        node = Node(on_fpga("low", 0))
        async with node.turns["low"]:
            asking = asyncio.ensure_future(node.ask())
            await asyncio.sleep(0.01)
            assert not asking.done()
            node.demands.clear()
        assert await asking == "" and not node.bridged

    asyncio.run(scenario())


def test_a_bench_moves_nobody_and_tells_versions_apart() -> None:
    async def scenario() -> None:
        claim = claims.of_nobody(lambda: (on_fpga("a", 0), on_fpga("b", 0)))
        assert await claim("fpga", TWO) == "fpga holds npu for a and b"
        assert await claim("fpga", replace(ONE, version=2)) == f"fpga holds {ONE} for a and b"
        assert await claim("fpga", ONE) == "" == await claim("fpga1", TWO)

    asyncio.run(scenario())
