"""Downloads that wait: no deadline strikes, the reason shows, a command ends it. Frames of no use are named."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from agent.deploy.attempt import Attempt
from agent.errors import PhaseTimeout
from agent.types import Delivery, DesiredModel, Phase, State
from tests.unit.deploy.rig import BUDGET, Rig, Source, make_package, play

TIMEOUT_S = 0.3


class Silent(Source):
    """Never delivers anything; waits for hours that come ``waits_until_s`` after it began."""

    def __init__(self, waits_until_s: float = 0.0, received: int = 0) -> None:
        super().__init__([])
        self._waits_until_s, self._received, self._began = waits_until_s, received, 0.0

    async def fetch(self, *_: object) -> None:
        self._began = asyncio.get_running_loop().time()
        await asyncio.Event().wait()

    def delivery(self, _digest: str) -> Delivery:
        passed = asyncio.get_running_loop().time() - self._began if self._began else 0.0
        waits = "waits for 22:00, download hours" if 0 < passed < self._waits_until_s else ""
        return Delivery(
            self._received if passed else 0,
            waits_for=waits,
            waited_s=min(passed, self._waits_until_s),
        )


def timed_out(folder: Path, source: Silent) -> tuple[str, float]:
    """How a download ends, and after how many seconds."""
    found: list[tuple[str, float]] = []

    async def scenario(rig: Rig) -> None:
        package = make_package("1")
        model = DesiredModel("digits", "1", package.digest, BUDGET)
        res = rig.manager._res
        res = replace(res, settings=replace(res.settings, download_timeout_s=TIMEOUT_S))
        deployment = rig.journal.queue("fleet", "lab/n1", 1, model)
        assert deployment.state is State.QUEUED

        async def no_room() -> None: ...

        attempt = Attempt(res, deployment, source, rig.manager._adaptation, no_room, lambda *_: None)
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(PhaseTimeout, match=Phase.DOWNLOADING.value) as caught:
            await asyncio.wait_for(attempt.deliver(), 20)
        found.append((str(caught.value), loop.time() - began))

    play(folder, scenario, source)
    return found[0]


def test_silence_ends_a_download(tmp_path: Path) -> None:
    why, _ = timed_out(tmp_path, Silent())
    assert why == "DOWNLOADING: nothing arrived for 0.3 s; does overlaid fleet serve run?"


def test_what_is_of_no_use_is_named(tmp_path: Path) -> None:
    why, _ = timed_out(tmp_path, Silent(received=12_345_678))
    assert "nothing of use arrived for 0.3 s, only 12.3 MB that are damaged or not wanted" in why


def test_the_clock_stands_still_while_the_node_waits_for_its_hours(tmp_path: Path) -> None:
    _, seconds = timed_out(tmp_path, Silent(waits_until_s=1.0))
    assert seconds >= 1.0 + TIMEOUT_S


def test_what_a_deployment_waits_for_is_its_reason_until_it_is_told_to_go_ahead(tmp_path: Path) -> None:
    package = make_package("1")
    source = Source([package], hold=asyncio.Event())
    text = "waits for 22:00, download hours"

    async def scenario(rig: Rig) -> None:
        assert not rig.manager.download("digits")
        source.deliveries[package.digest] = Delivery(waits_for=text, waited_s=1.0)
        rig.want((package, "1"))
        while not source.asked:
            await asyncio.sleep(0.01)
        status = rig.status()
        assert status is not None and status.delivery is not None
        assert (status.state, status.phase, status.why) == (State.IN_PROGRESS, Phase.DOWNLOADING, text)
        assert rig.manager.download("digits") and source.hurried == [package.digest]
        source.deliveries[package.digest] = Delivery(received=100, useful=90)
        assert source.hold is not None
        source.hold.set()
        done = await rig.settled()
        assert done is not None and done.state is State.SUCCEEDED
        assert done.why != text and done.delivery == Delivery(received=100, useful=90)
        assert not rig.manager.download("digits")

    play(tmp_path, scenario, source)
