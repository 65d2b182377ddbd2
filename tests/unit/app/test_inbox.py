"""What arrives from the broker: journalled, then acknowledged; refused by name; kept while the disk refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agent.app import inbox as module
from agent.app.inbox import Inbox
from agent.deploy.journal import Journal
from agent.errors import StoreError
from agent.link.client import Message
from agent.link.messages import Command, Desired, sign
from agent.link.topics import Target
from agent.trust import PrivateKey, keyring
from agent.types import DesiredState

KEY = PrivateKey.generate()
N1 = Target("lab", "n1")


@dataclass
class Recorder:
    """Stands for manager, commands and telemetry: it notes what it is told."""

    told: list[str] = field(default_factory=list)

    def admit(self, target: str, state: DesiredState) -> None: ...

    def reconcile(self) -> None:
        self.told.append("reconcile")

    def event(self, kind: str, text: str, model: str | None = None) -> None:
        self.told.append(f"{kind}: {text}")

    def refuse(self, topic: str, error: Exception) -> None:
        self.told.append(f"refused {topic}")

    async def perform(self, command: Command) -> None:
        self.told.append(f"performed {command.id}")


@dataclass
class Scene:
    inbox: Inbox
    journal: Journal
    recorder: Recorder
    why: list[str] = field(default_factory=list)
    acked: list[str] = field(default_factory=list)

    def receive(self, topic: str, payload: bytes) -> None:
        self.inbox.handle(Message(topic, payload, False, lambda: self.acked.append(topic)))


def play(folder: Path, scenario: Callable[[Scene], Any]) -> None:
    async def run() -> None:
        journal, recorder, why = Journal(folder / "state.db"), Recorder(), []  # type: ignore[var-annotated]
        parts: Any = recorder
        inbox = Inbox((N1,), keyring([KEY.public]), journal, parts, parts, parts, why.append)
        try:
            await scenario(Scene(inbox, journal, recorder, why))
        finally:
            journal.close()

    asyncio.run(run())


def desired(revision: int) -> bytes:
    return sign(Desired.of(N1, DesiredState(revision, 1.0, 4e9)), KEY)


def command(sequence: int) -> bytes:
    fields = {"target": str(N1), "id": f"c-{sequence}", "op": "logs", "sequence": sequence}
    return sign(Command.model_validate(fields | {"issued": 1.0, "expires": 4e9}), KEY)


def test_a_desired_state_is_on_the_disk_before_it_is_acknowledged(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.receive(N1.desired, desired(1))
        assert scene.journal.desired()[str(N1)].revision == 1
        assert scene.acked == [N1.desired] and "reconcile" in scene.recorder.told

    play(tmp_path, scenario)


def test_while_the_disk_refuses_nothing_is_acknowledged_and_it_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.02)

    async def scenario(scene: Scene) -> None:
        accept, failures = scene.journal.accept_desired, [1, 2]

        def refuse(target: str, state: DesiredState) -> bool:
            if failures:
                failures.pop()
                raise StoreError("no space left on device")
            return accept(target, state)

        scene.journal.accept_desired = refuse  # type: ignore[method-assign]
        scene.receive(N1.desired, desired(1))
        assert scene.acked == []
        for _ in range(200):
            if scene.acked:
                break
            await asyncio.sleep(0.01)
        assert scene.acked == [N1.desired] and scene.journal.desired()[str(N1)].revision == 1

    play(tmp_path, scenario)


def test_a_refused_message_is_tried_once_a_period_however_often_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.05)

    async def scenario(scene: Scene) -> None:
        tries = []

        def refuse(target: str, state: DesiredState) -> bool:
            tries.append(state.revision)
            raise StoreError("no space left on device")

        scene.journal.accept_desired = refuse  # type: ignore[method-assign]
        for revision in range(1, 21):
            scene.receive(N1.desired, desired(revision))
        tries.clear()
        await asyncio.sleep(0.12)
        assert tries and set(tries) == {20} and len(tries) <= 2
        await scene.inbox.close()

    play(tmp_path, scenario)


def test_a_command_is_performed_once(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        for payload in (command(1), command(1)):
            scene.receive(N1.command("logs", "c-1"), payload)
        await asyncio.sleep(0)
        assert scene.recorder.told.count("performed c-1") == 1 and len(scene.acked) == 2
        assert any("Replayed" in text for text in scene.recorder.told)

    play(tmp_path, scenario)


def test_a_flood_of_rubbish_is_acknowledged_but_answered_a_few_times_only(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        for number in range(1000):
            scene.receive(N1.command("logs", f"x-{number}"), b"rubbish")
        assert len(scene.acked) == 1000
        assert 1 <= len([text for text in scene.recorder.told if text.startswith("refused ")]) <= 20

    play(tmp_path, scenario)


def test_a_cleared_retained_state_changes_nothing(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.receive(N1.desired, b"")
        assert scene.recorder.told == [] and scene.acked == [N1.desired]

    play(tmp_path, scenario)


def test_what_a_wrong_clock_took_for_expired_is_accepted_once_it_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody sends a retained message again before the next connection."""
    monkeypatch.setattr(module, "CLOCK_S", 0.02)

    async def scenario(scene: Scene) -> None:
        now = 5e9
        monkeypatch.setattr(scene.journal, "now", lambda: now)
        scene.receive(N1.desired, desired(1))
        await asyncio.sleep(0.1)
        assert scene.acked == [N1.desired] and len(scene.why) == 1 and "Expired" in scene.why[0]
        assert len(scene.recorder.told) == 1
        now = 2e9
        for _ in range(200):
            if scene.journal.desired():
                break
            await asyncio.sleep(0.01)
        assert scene.journal.desired()[str(N1)].revision == 1
        assert set(scene.acked) == {N1.desired} and scene.why[-1] == ""
        await scene.inbox.close()

    play(tmp_path, scenario)


def test_a_newer_state_takes_the_place_of_one_that_expired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLOCK_S", 0.02)

    async def scenario(scene: Scene) -> None:
        now = 5e9
        monkeypatch.setattr(scene.journal, "now", lambda: now)
        scene.receive(N1.desired, desired(1))
        now = 2e9
        scene.receive(N1.desired, desired(2))
        told = list(scene.recorder.told)
        await asyncio.sleep(0.1)
        assert scene.journal.desired()[str(N1)].revision == 2 and scene.recorder.told == told
        await scene.inbox.close()

    play(tmp_path, scenario)
