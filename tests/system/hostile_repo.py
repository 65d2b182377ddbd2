"""A server in place of ``overlaid fleet serve`` that gives out what an attack wants as metadata, and honest blocks."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from tuf.api.metadata import Metadata, MetaFile, Root, T, Targets

from agent.fleet.home import Home
from agent.fleet.repo.signers import Signers
from agent.fleet.repo.state import keys_of, load
from agent.fleet.repo.store import RepoFiles
from agent.fleet.repository import Repository
from agent.fleet.serve import BlockServer
from agent.link.client import Message
from agent.link.messages import RepoRequest, parse
from agent.link.topics import metadata_data, metadata_requests
from tests.system.brokers import Broker
from tests.system.links import Recorded
from tests.system.stage import SITE

Files = Mapping[str, bytes]


def served(home: Home) -> dict[str, bytes]:
    """The metadata of an operator's folder, as nodes get it."""
    return {path.name: path.read_bytes() for path in (home.repo / "metadata").glob("*.json")}


def forged(home: Home, role: str, change: Callable[[Targets], None], later: int = 100) -> dict[str, bytes]:
    """What whoever stole the keys in ``home`` gives out: a changed team, a snapshot and a timestamp that name it, so
    many versions ``later``."""
    state, signers, files = load(RepoFiles(home.repo)), Signers(home), served(home)
    root, team = state.root.signed, state.targets[role]
    change(team.signed)

    def sign(metadata: Metadata[T], delegator: Root | Targets, name: str) -> MetaFile:
        metadata.signatures.clear()
        signers.sign(metadata, keys_of(delegator, metadata.signed.type if name != role else role))
        version = metadata.signed.version
        files["timestamp.json" if name == "timestamp" else f"{version}.{name}.json"] = metadata.to_bytes()
        return MetaFile.from_data(version, metadata.to_bytes(), ["sha256"])

    state.snapshot.signed.meta[f"{role}.json"] = sign(team, state.top.signed, role)
    state.snapshot.signed.version += later
    state.timestamp.signed.snapshot_meta = sign(state.snapshot, root, "snapshot")
    state.timestamp.signed.version += later
    sign(state.timestamp, root, "timestamp")
    return files


class HostileServer:
    """``files``: what it gives out, unless it is ``silent``; ``asked``: what nodes asked for. In a thread of its own
    while entered."""

    def __init__(self, broker: Broker, packages: Path) -> None:
        self.files: Files = {}
        self.silent = False
        self.asked: list[str] = []
        self._broker, self._packages = broker, Repository(packages)
        self._loop = asyncio.new_event_loop()
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    def __enter__(self) -> HostileServer:
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    async def _run(self) -> None:
        async with Recorded(self._broker, "hostile") as link:
            blocks = BlockServer(
                SITE,
                self._packages,
                lambda topic, frame: link.publish(topic, frame, 0),
                lambda *_, **__: None,
                lambda _digest: False,
            )

            def answer(message: Message) -> None:
                message.ack()
                if message.topic != metadata_requests(SITE):
                    blocks.handle(message.topic, message.payload)
                    return
                for name in parse(RepoRequest, message.payload).names:
                    self.asked.append(name)
                    if not self.silent:
                        link.publish(metadata_data(SITE, name), self.files.get(name, b""), 0)

            link.on_message = answer
            link.subscribe(blocks.requests, 0)
            link.subscribe(metadata_requests(SITE), 0)
            await link.ready()
            task = asyncio.create_task(blocks.run())
            self._ready.set()
            await self._stop.wait()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
