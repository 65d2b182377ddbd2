"""The daemon ends in the middle of something: what the next one finds, and does."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.deploy import adaptation
from agent.deploy.adaptation import Adaptation
from agent.placement.adapting import adapt
from agent.types import Budget, State
from tests.unit.deploy import test_bridge as bridge
from tests.unit.deploy import test_joint as joint
from tests.unit.deploy.figures import Figures, known
from tests.unit.deploy.rig import Rig, Source, play
from tests.unit.deploy.test_joint import QUICK, devices, run, until, want, why

BUSY = Budget(1.5, 1000.0)  # half of the GPU


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates have known figures; looks are frequent."""
    with_figures(monkeypatch, joint.FIGURES)
    monkeypatch.setattr(adaptation, "LOOK_S", 0.02)


def with_figures(monkeypatch: pytest.MonkeyPatch, figures: Figures) -> None:
    known(monkeypatch, figures)


async def for_ever(*_: Any) -> Any:
    await asyncio.Event().wait()


def test_a_move_that_was_decided_is_done_by_the_next_start(tmp_path: Path) -> None:
    async def first(rig: Rig) -> None:
        want(rig, {"a": QUICK})
        await rig.settled()
        rig.pool.route = for_ever  # type: ignore[method-assign,assignment]
        want(rig, {"a": QUICK}, cap_w=5.0)
        await until(lambda: len(rig.pool.alive) == 2)
        await until(lambda: journalled(rig, "a").candidate.device == "cpu")  # before the route flips

    async def second(rig: Rig) -> None:
        await until(lambda: devices(rig) == {"a": "cpu"})
        assert rig.pool.started == 1  # never on the GPU again, which would break the cap
        await until(lambda: "cap 5 W" in why(rig, "a")[1])

    run(tmp_path, first)
    run(tmp_path, second)


def journalled(rig: Rig, model: str) -> Any:
    kept = rig.journal.placement(model, joint.PACKAGES[model].digest)
    assert kept is not None
    return kept.placement


def test_who_made_room_for_a_newcomer_that_never_came_comes_back(tmp_path: Path) -> None:
    budgets = {"a": BUSY, "b": replace(BUSY, priority=1)}

    async def first(rig: Rig) -> None:
        want(rig, {"a": BUSY})
        await rig.settled()
        start = rig.pool.start

        async def stuck(spec: Any) -> Any:
            if spec.model == "b" and devices(rig) == {"a": "cpu"}:
                await asyncio.Event().wait()
            return await start(spec)

        rig.pool.start = stuck  # type: ignore[method-assign]
        want(rig, budgets)
        await until(lambda: devices(rig) == {"a": "cpu"})

    async def without(rig: Rig) -> None:
        rig.revision = 2
        want(rig, {"a": BUSY})  # the operator has thought better of it
        await until(lambda: devices(rig) == {"a": "gpu"})

    async def resumed(rig: Rig) -> None:
        rig.revision = 2
        await until(lambda: devices(rig) == {"a": "cpu", "b": "gpu"})
        await until(lambda: why(rig, "b")[0] is State.SUCCEEDED)

    for folder, then in ((tmp_path / "one", without), (tmp_path / "two", resumed)):
        run(folder, first)
        run(folder, then)


def test_a_bridge_that_nobody_came_over_leads_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_figures(monkeypatch, bridge.FIGURES)

    async def first(rig: Rig) -> None:
        bridge.want(rig, (bridge.FIRST, bridge.EASY))
        await rig.settled()
        start, tries = rig.pool.start, 0

        async def stuck(spec: Any) -> Any:
            nonlocal tries
            if spec.version == "1.1.0" and spec.candidate.device == "fpga":
                tries += 1
                if tries > 1:  # measured once
                    await asyncio.Event().wait()
            return await start(spec)

        rig.pool.start = stuck  # type: ignore[method-assign]
        bridge.want(rig, (bridge.NEWER, bridge.EASY))
        await until(lambda: devices(rig) == {"one": "cpu"})

    async def second(rig: Rig) -> None:
        rig.revision = 2
        bridge.want(rig, (bridge.FIRST, bridge.EASY))
        await until(lambda: devices(rig) == {"one": "fpga"} and len(rig.pool.alive) == 1)

    source = Source([bridge.FIRST, bridge.NEWER])
    play(tmp_path, first, source, board=bridge.BOARD)
    play(tmp_path, second, Source([bridge.FIRST, bridge.NEWER]), board=bridge.BOARD)


def test_a_bug_in_weighing_leaves_everything_as_it_is_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(rig: Rig) -> None:
        want(rig, {"a": QUICK})
        await rig.settled()
        serving = rig.pool.routes["a"]
        looks = 0

        def broken(*_: object) -> None:
            nonlocal looks
            looks += 1
            raise ZeroDivisionError("of no use")

        monkeypatch.setattr(adapt, "step", broken)
        await until(lambda: looks > 3)
        assert rig.pool.alive == [serving]
        monkeypatch.undo()
        want(rig, {"a": QUICK}, cap_w=5.0)
        await until(lambda: devices(rig) == {"a": "cpu"})
        rig.telemetry.flush()
        told = [text for kind, text in rig.events() if kind == "adapt-failed"]
        assert told == ["models stay where they are: ZeroDivisionError('of no use')"]

    run(tmp_path, scenario)


def test_looks_go_on_while_a_model_is_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cap that rises again while a model leaves for it: it comes back, and is served all the time."""

    async def scenario(rig: Rig) -> None:
        want(rig, {"a": QUICK})
        await rig.settled()
        start, loading, go_on = rig.pool.start, asyncio.Event(), asyncio.Event()

        async def slow(spec: Any) -> Any:
            loading.set()
            await go_on.wait()
            return await start(spec)

        rig.pool.start = slow  # type: ignore[method-assign]
        want(rig, {"a": QUICK}, cap_w=5.0)
        await loading.wait()
        want(rig, {"a": QUICK})
        await asyncio.sleep(0.1)
        assert devices(rig) == {"a": "gpu"}
        go_on.set()
        await rig.settled()
        await until(lambda: devices(rig) == {"a": "gpu"} and len(rig.pool.alive) == 1)

    looks = 0
    look = Adaptation.look

    def counted(self: Adaptation, happened: bool = True) -> None:
        nonlocal looks
        looks += 1
        look(self, happened)

    monkeypatch.setattr(Adaptation, "look", counted)
    run(tmp_path, scenario)
    assert looks > 3
