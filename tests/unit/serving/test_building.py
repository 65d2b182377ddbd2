"""A worker that builds something for this machine: how long it is waited for, and what is said meanwhile."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.errors import WorkerTimeout
from agent.hal import ModelFile
from agent.serving.builds import Builds
from agent.serving.processes import building, process
from agent.serving.processes.building import Building
from agent.serving.processes.process import Worker
from agent.serving.processes.spawn import Spawned, ends
from agent.serving.spec import Golden, WorkerSpec
from agent.types import Candidate

NOWHERE = Path("/nowhere")
SPEC = WorkerSpec(
    "m", "1", "0" * 64, "local", NOWHERE, Candidate("fp32", "tensorrt", "gpu"),
    ModelFile(NOWHERE, "onnx", (), ()), Golden(1, {}, {}, 0.0, 0.0), 1000,
)  # fmt: skip
LOADED = {"load_s": 0.5, "memory_mb": 1.0}


class Played:
    """A worker whose process only sleeps; the test plays it. ``told``: what is built, as the pool hears of it."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.builds = Builds()
        self.worker = Worker(SPEC, self._nothing, self._nothing, self._spawn)
        self.worker.on_building = self._changed
        self._far: socket.socket | None = None

    def _nothing(self, *_: Any) -> None: ...

    def _changed(self, worker: Worker) -> None:
        self.builds.changed(worker)
        self.told.append(worker.building.what)

    async def _spawn(self, _: WorkerSpec) -> Spawned:
        with ends() as (ours, theirs):
            self._far = theirs.control.dup()
            self._far.setblocking(False)
            sleeper = subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL)  # noqa: ASYNC220
            return Spawned(sleeper, ours.control, ours.stderr)

    async def receive(self) -> dict[str, Any]:
        """The head of the daemon's next message."""
        assert self._far is not None
        reading = asyncio.get_running_loop().sock_recv(self._far, 1 << 17)
        head: dict[str, Any] = json.loads((await asyncio.wait_for(reading, 10)).partition(b"\n")[0])
        return head

    async def send(self, **head: Any) -> None:
        assert self._far is not None
        self._far.sendall(json.dumps(head).encode() + b"\n")
        await asyncio.sleep(0.02)  # the daemon reads it

    def text(self) -> str:
        return self.builds.text(self.worker.spec.model)

    async def started(self) -> asyncio.Task[None]:
        """Being started, with the load asked for."""
        task = asyncio.create_task(self.worker.start())
        while self._far is None:
            await asyncio.sleep(0.001)
        assert (await self.receive())["op"] == "load"
        return task


def play(scenario: Callable[[Played], Awaitable[None]]) -> None:
    async def run() -> None:
        played = Played()
        try:
            await scenario(played)
        finally:
            await played.worker.end()
            assert played._far is not None
            played._far.close()

    asyncio.run(run())


def test_loading_waits_for_what_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "LOAD_S", 0.3)

    async def scenario(played: Played) -> None:
        starting = await played.started()
        await played.send(op="building", what="the engine of m")
        await asyncio.sleep(0.6)
        assert not starting.done()
        assert played.text() == "building the engine of m"
        await played.send(op="building", what="kernels")
        assert played.text() == "building kernels"
        await played.send(op="answer", id=0, ok=LOADED)
        await starting
        assert played.text() == ""
        assert played.told == ["the engine of m", "kernels", ""]
        total_s = played.worker.building.total_s
        assert total_s > 0.5
        assert played.builds.seconds(played.worker.spec.model) == total_s

    play(scenario)


def test_a_build_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "LOAD_S", 0.5)
    monkeypatch.setattr(building, "BUILD_S", 1.0)

    async def scenario(played: Played) -> None:
        starting = await played.started()
        await played.send(op="building", what="the engine of m")
        for _ in range(3):  # more of them do not take more
            await asyncio.sleep(0.1)
            await played.send(op="building", what="more")
        with pytest.raises(
            WorkerTimeout, match=r"did not answer 'load' within .* s of building more; it was"
        ):
            await starting
        assert played.text() == ""
        assert played.told[-1] == ""

    play(scenario)


def test_checking_builds_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "CHECK_S", 0.2)

    async def scenario(played: Played) -> None:
        starting = await played.started()
        await played.send(op="answer", id=0, ok=LOADED)
        await starting
        await played.send(op="building", what="too early: nobody waits for it")
        assert played.told == []
        checking = asyncio.create_task(played.worker.check())
        assert (await played.receive())["op"] == "check"
        await played.send(op="building", what="the engine of m")
        await asyncio.sleep(0.4)
        await played.send(op="answer", id=1, ok=LOADED)
        await checking

    play(scenario)


def test_who_stops_a_worker_does_not_wait_for_what_it_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STOP_S", 0.1)
    monkeypatch.setattr(process, "ANSWER_S", 0.1)

    async def scenario(played: Played) -> None:
        starting = await played.started()
        await played.send(op="answer", id=0, ok=LOADED)
        await starting
        checking = asyncio.create_task(played.worker.check())
        assert (await played.receive())["op"] == "check"
        await played.send(op="building", what="the engine of m")
        checking.cancel()  # as when a newer revision supersedes the deployment
        await asyncio.wait({checking})
        await asyncio.wait_for(played.worker.stop(), 5)
        assert played.told == ["the engine of m", ""]
        assert played.builds.text("m") == ""

    play(scenario)


def test_a_worker_that_dies_builds_nothing_any_more() -> None:
    async def scenario(played: Played) -> None:
        starting = await played.started()
        await played.send(op="building", what="the engine of m")
        await played.worker.end("was stopped")
        assert (await asyncio.gather(starting, return_exceptions=True))[0] is not None
        assert played.told == ["the engine of m", ""]

    play(scenario)


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("a\nb\x1b[2J\x07", "building a b [2J"),
        ("x" * 5000, f"building {'x' * 197}..."),
        ("\ud800", ""),
        (["not", "a text"], "building ['not', 'a text']"),
        ("", ""),
    ],
)
def test_a_hostile_text(what: Any, text: str) -> None:
    async def scenario(played: Played) -> None:
        await played.started()
        await played.send(op="building", what=what)
        assert played.text().encode() == text.encode()

    play(scenario)


def test_a_message_without_a_text_is_nonsense() -> None:
    async def scenario(played: Played) -> None:
        starting = await played.started()
        await played.send(op="building")
        assert "nonsense" in str((await asyncio.gather(starting, return_exceptions=True))[0])

    play(scenario)


def test_a_worker_that_talks_without_end_is_not_repeated() -> None:
    made = Building()
    assert sum(made.began(f"engine {number}") for number in range(1000)) == building.MOST_TOLD


def test_the_text_changes_now_and_then_only(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(building, "time", SimpleNamespace(monotonic=lambda: now[0]))
    builds, worker = Builds(), Worker(SPEC, lambda *_: None, lambda *_: None)
    worker.building.began("kernels")
    builds.changed(worker)
    texts = []
    for now[0] in (1009.0, 1010.0, 1019.0, 1059.0, 1061.0, 1400.0):
        texts.append(builds.text("m"))
    assert [text.removeprefix("building kernels") for text in texts] == [
        "", ", 10 s so far", ", 10 s so far", ", 50 s so far", ", 1 min so far", ", 6 min so far",
    ]  # fmt: skip
    assert builds.text("another") == ""
    assert builds.seconds("m") == 400.0
