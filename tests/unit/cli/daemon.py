"""A stand-in for the daemon: a real control socket whose answers the test gives."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.control.server import ControlServer
from agent.errors import OverlaidError
from agent.types import (
    BackendInfo,
    BoardInfo,
    Budget,
    Candidate,
    DeviceInfo,
    Measurement,
    ModelStatus,
    Phase,
    Placement,
    Snapshot,
    State,
    Verdict,
    to_jsonable,
)

CPU = Candidate("int8", "onnxruntime", "cpu")
SLOW = Candidate("fp32", "litert", "cpu")
BOARD = BoardInfo(
    "local",
    False,
    (DeviceInfo("cpu", "cpu", "Some CPU", (BackendInfo("onnxruntime", "1.20", ("onnx",)),), memory_mb=2048),),
    problems=("no power sensor",),
)
DIGITS = ModelStatus(
    "digits", "1.0.0", "ab" * 32, State.SUCCEEDED, candidate=CPU, budget=Budget(20, 10, 0.5, 0.97, 3), requests=1500,
    errors=2, p50_ms=0.251, p99_ms=1.75, restarts=1, pid=99, ready=True,
)  # fmt: skip
KWS = ModelStatus(
    "kws", "2.0.0", "cd" * 32, State.IN_PROGRESS, Phase.DOWNLOADING, 0.4, running_version="1.0.0"
)
SNAPSHOT = Snapshot(
    time=1000.0, node="cam-7", site="plant", boot_id="b", agent_version="0.1.0", started=100.0, pid=42,
    broker="broker:8883", broker_connected=True, revision_seen=5, revision_applied=4, power_cap_w=8.0, power_w=3.14159,
    http="127.0.0.1:8000", models=(DIGITS, KWS), board=BOARD, warnings=("refused \x1b[31mby\nname",),
)  # fmt: skip
PLACEMENT = Placement(
    "digits", "1.0.0", "ab" * 32, Budget(20, 10), CPU, "least energy",
    (
        Verdict(CPU, True, "1.2 mJ", Measurement(CPU, 500, 0.2, 0.19, 0.4, 0.99, 0.1, 40, 0.981, 0.0012, "measured")),
        Verdict(SLOW, False, "p99 25 ms is over 20 ms"),
    ),
    1000.0,
)  # fmt: skip


class Folders:
    """A configuration file and the folders that it names."""

    def __init__(self, root: Path) -> None:
        self.state, self.runtime = root / "state", root / "run"
        self.state.mkdir()
        self.config = root / "agent.toml"
        self.config.write_text(f'[paths]\nstate = "{self.state}"\nruntime = "{self.runtime}"\n')


@contextmanager
def daemon(folders: Folders, answers: Mapping[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """Answer each op with a value, a list of answers in order, or an error to raise; yields the requests seen."""
    seen: list[dict[str, Any]] = []

    async def handle(request: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        seen.append(request)
        answer = answers[request["op"]]
        if isinstance(answer, OverlaidError):
            raise answer
        for each in answer if isinstance(answer, list) else [{"ok": to_jsonable(answer)}]:
            yield each

    started, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        server = ControlServer(folders.runtime / "control.sock", handle)
        await server.start()
        started.set()
        await stop.wait()
        await server.stop()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert started.wait(10)
    try:
        yield seen
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
