"""The daemon's handle of one worker process: start it, ask it, know when it is gone."""

from __future__ import annotations

import array
import asyncio
import contextlib
import itertools
import json
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from agent.errors import OverlaidError, WorkerCrashed, WorkerError, WorkerTimeout, from_name, signal_name
from agent.histogram import Histogram
from agent.serving.processes.building import Building
from agent.serving.processes.channel import Channel, Message
from agent.serving.processes.custody import Custody, Orphan
from agent.serving.processes.spawn import Spawned, start_cold
from agent.serving.processes.vitals import Vitals
from agent.serving.recent import Report
from agent.serving.spec import WorkerSpec
from agent.serving.unwell import UNWELL

LOAD_S = 120.0
CHECK_S = 120.0
ANSWER_S = 10.0  # answers that need no inference
STOP_S = 10.0  # requests in flight may finish
MAX_PROFILE_RUNS = 8192  # their times must fit one control message

log = logging.getLogger(__name__)


Spawn = Callable[[WorkerSpec], Awaitable[Spawned]]
OnStats = Callable[["Worker", Report], None]
OnConnection = Callable[["Worker", socket.socket, bytes, bool, bool], None]
OnUnwell = Callable[["Worker", OverlaidError], None]
OnOrphans = Callable[["Worker", list[Orphan]], None]
OnBuilding = Callable[["Worker"], None]


class Worker:
    """A running worker. Every wait has a deadline; a worker that misses one is killed (WorkerTimeout).

    ``load_s``: seconds to import the runtime and load the model. ``memory_mb``: resident memory when it last answered.
    ``parts``: mean seconds of a run by kind of device when it was last profiled; empty when all is on one.
    ``on_unwell`` hears of every failure that speaks of the device, while starting or serving; ``on_orphans`` gets the
    connections that the worker had when it ended. ``fate``: how that was; ``cause``: with its last words.
    ``on_building`` hears when ``building`` changes: deadlines wait for what a runtime builds, BUILD_S at most.
    """

    def __init__(
        self, spec: WorkerSpec, on_stats: OnStats, on_connection: OnConnection, spawn: Spawn = start_cold
    ) -> None:
        self.spec = spec
        self.pid = 0
        self.load_s = 0.0
        self.memory_mb = 0.0
        self.parts: dict[str, float] = {}
        self.gone = asyncio.Event()
        self.cause = ""
        self.fate = ""
        self.vitals: Vitals | None = None  # while the process lives
        self.building = Building()
        self._on_stats = on_stats
        self._on_connection = on_connection
        self._spawn = spawn
        self.on_unwell: OnUnwell = lambda _worker, _error: None
        self.on_orphans: OnOrphans = _close_orphans
        self.on_building: OnBuilding = lambda _worker: None
        self._numbers = itertools.count()
        self._answers: dict[int, asyncio.Future[Message]] = {}
        self._closed = asyncio.Event()
        self._topic = {"model": spec.model, "device": spec.candidate.device}
        self._partial = b""  # a line of stderr that has not ended
        self._tail: deque[str] = deque(maxlen=5)

    async def start(self) -> None:
        """Start the process and load the model.

        Raises the worker's own error (ModelLoadError, TensorError, RuntimeUnavailable, DeviceMismatch, DeviceLost …),
        WorkerCrashed or WorkerTimeout; no process is left then.
        """
        try:
            spawned = await self._spawn(self.spec)
        except OSError as error:
            raise WorkerCrashed(f"cannot start a process for {self.spec}: {error}") from error
        self._process, self._stderr = spawned.process, spawned.stderr
        self.pid = self._process.pid
        self._channel = Channel(spawned.control, self._received, self._closed.set)
        self._watch_stderr()
        self._reaper = asyncio.create_task(self._reap(), name=f"reap {self.spec.model}")
        try:
            answer = await self._load()
        except BaseException:
            await self.end()
            raise
        self.load_s = float(answer.head["ok"]["load_s"])

    async def _load(self) -> Message:
        try:
            self.vitals = Vitals.create()
        except OSError as error:
            raise WorkerCrashed(f"no shared memory for {self.spec}: {error}") from error
        self._custody = Custody(self.vitals)
        return await self.ask("load", LOAD_S, self.spec.to_json(), [self.vitals.fd])

    async def check(self) -> None:
        """Run the golden vectors; raises GoldenMismatch with the numbers."""
        await self.ask("check", CHECK_S)

    async def profile(self, seconds: float, max_runs: int) -> list[float]:
        """Device seconds of each run on golden inputs, for ``seconds`` or ``max_runs`` (at most 8192), one at least."""
        runs = min(max_runs, MAX_PROFILE_RUNS)
        answer = await self.ask("profile", 2 * seconds + CHECK_S, seconds=seconds, max_runs=runs)
        self.parts = {str(kind): float(mean_s) for kind, mean_s in answer.head["ok"]["parts"].items()}
        return array.array("d", answer.payload).tolist()

    async def open_loop(self, seconds: float, rate_hz: float, seed: int) -> list[float]:
        """Seconds of device time from arrival to answer of requests that come as ``arrivals`` says; none, maybe."""
        answer = await self.ask(
            "open-loop", 2 * seconds + CHECK_S, seconds=seconds, rate_hz=rate_hz, seed=seed
        )
        return array.array("d", answer.payload).tolist()

    async def batch_times(self, seconds: float, limit_s: float) -> dict[int, list[float]]:
        """Device seconds of runs that answer so many requests; a size that takes longer than ``limit_s`` is the last.

        Raises InferenceError for a model whose answers depend on each other.
        """
        answer = await self.ask("batch", 2 * seconds + CHECK_S, seconds=seconds, limit_s=limit_s)
        times = json.loads(answer.payload)
        return {int(size): [float(value) for value in values] for size, values in times.items()}

    async def describe(self) -> dict[str, Any]:
        """The model's ``metadata``, Triton's ``config`` of it, and ``statistics``, an element of ``model_stats``."""
        about: dict[str, Any] = json.loads((await self.ask("describe", ANSWER_S)).payload)
        return about

    async def serve(self, listener: socket.socket) -> None:
        """Accept from the model's socket, and take connections that the front door passes."""
        await self.ask("serve", ANSWER_S, fds=[listener.fileno()])

    async def drain(self) -> None:
        """Stop accepting; idle connections come back at once, others after their request."""
        await self.ask("drain", ANSWER_S)

    async def stop(self) -> None:
        """Let requests in flight finish (10 s at most), then end the process, whatever it builds."""
        self._built()
        with contextlib.suppress(OverlaidError):
            await self.ask("stop", STOP_S + ANSWER_S, grace_s=STOP_S)
        await self.end("was stopped")

    async def end(self, fate: str = "") -> None:
        """End the process now, whatever it does; ``fate``: why, if it is not its own fault."""
        self.fate = self.fate or fate
        self._kill()
        await self.gone.wait()

    def pass_connection(self, fd: int, unread: bytes, door: bool) -> None:
        """Give the worker a connection; raises WorkerError when it cannot take it."""
        slot = self._custody.keep(fd, door, bool(unread))
        try:
            self._channel.send({"op": "connection", "door": door, "slot": slot}, unread, [fd])
        except WorkerError:
            self._custody.drop(slot)
            raise

    def _kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        self._channel.close()
        self._closed.set()

    async def ask(
        self, op: str, timeout: float, payload: bytes = b"", fds: Sequence[int] = (), **arguments: Any
    ) -> Message:
        """One request over the control channel, with the error that the worker answers raised here."""
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        number = next(self._numbers)
        self._answers[number] = future
        try:
            self._channel.send({"op": op, "id": number, **arguments}, payload, fds)
            await asyncio.wait([future], timeout=timeout)
            while not future.done() and (left_s := self.building.left_s):
                await asyncio.wait([future], timeout=left_s)
        except WorkerCrashed:
            await self.gone.wait()
            raise WorkerCrashed(self.cause) from None
        finally:
            del self._answers[number]
        if not future.done():
            spent = f" of building {what}" if (what := self.building.what) else ""
            limit_s = self.building.seconds if what else timeout
            await self.end(f"did not answer {op!r} within {limit_s:g} s{spent}; it was killed")
            raise WorkerTimeout(f"worker of {self.spec} {self.fate}")
        answer = future.result()
        if "error" in answer.head:
            error = from_name(str(answer.head["error"]["name"]), str(answer.head["error"]["text"]))
            if isinstance(error, UNWELL):
                self.on_unwell(self, error)
            raise error
        self.memory_mb = float(answer.head["ok"]["memory_mb"])
        return answer

    def _received(self, message: Message) -> None:
        head = message.head
        if head["op"] == "answer":
            self._answered(message)
        elif head["op"] == "stats":
            latency = Histogram.of(head["latency"], float(head["seconds"]))
            device = Histogram.of(head["device"], float(head["device_s"]))
            self._on_stats(self, Report(latency, head["failures"], int(head["waiting"]), device))
        elif head["op"] == "building":
            self._builds(str(head["what"]))
        elif head["op"] == "unwell":
            error = from_name(str(head["name"]), str(head["text"]))
            if not isinstance(error, UNWELL):
                raise ValueError(f"{error.name} says nothing of the device")
            self.on_unwell(self, error)
        elif self.vitals is None:
            raise ValueError(f"message {head['op']!r} before the model is loaded")
        elif head["op"] == "connection":
            elsewhere = bool(head["elsewhere"])
            connection = self._custody.release(int(head["slot"]))
            if connection is not None:
                self._on_connection(self, connection.sock, message.payload, connection.door, elsewhere)
        elif head["op"] == "slots":
            self._custody.received(message)
        else:
            raise ValueError(f"unknown message {head['op']!r} from a worker")

    def _answered(self, message: Message) -> None:
        self._built()
        future = self._answers.get(int(message.head["id"]))
        if future is not None and not future.done():
            future.set_result(message)

    def _builds(self, what: str) -> None:
        if self._answers and self.building.began(what):  # else nobody waits for it
            self.on_building(self)

    def _built(self) -> None:
        if self.building.ended():
            self.on_building(self)

    async def _reap(self) -> None:
        """Wait for the channel's end, collect the exit status, fail whoever waits."""
        await self._closed.wait()
        deadline = time.monotonic() + 1.0
        while self._process.poll() is None:
            if time.monotonic() > deadline:
                self._process.kill()
            await asyncio.sleep(0.002)
        while self._read_stderr():
            pass
        asyncio.get_running_loop().remove_reader(self._stderr)
        os.close(self._stderr)
        self.cause = self._crash_text()
        self._built()
        for future in self._answers.values():
            if not future.done():
                future.set_exception(WorkerCrashed(self.cause))
        if self.vitals is not None:
            orphans = self._custody.end()
            self.vitals.close()
            self.vitals = None
            self.on_orphans(self, orphans)
        self.gone.set()

    def _crash_text(self) -> str:
        code = self._process.returncode
        how = "is gone" if code is None else f"exited with status {code}"
        if code is not None and code < 0:
            how = f"was killed by {signal_name(-code)}"
        if self._channel.nonsense:
            how = f"was killed because it talked nonsense to the daemon: {self._channel.nonsense}"
        self.fate = self.fate or how
        last = f"; its last words: {' | '.join(self._tail)[-400:]}" if self._tail else ""
        return f"worker of {self.spec} {self.fate}{last}"

    def _watch_stderr(self) -> None:
        os.set_blocking(self._stderr, False)
        asyncio.get_running_loop().add_reader(self._stderr, self._read_stderr)

    def _read_stderr(self) -> bool:
        """False when there is no more for now, or at the end."""
        try:
            data = os.read(self._stderr, 65536)
        except BlockingIOError:
            return False
        if not data:
            asyncio.get_running_loop().remove_reader(self._stderr)
        *lines, self._partial = (self._partial + data).split(b"\n") if data else (self._partial, b"")
        self._partial = self._partial[-4096:]
        for line in lines:
            text = line[:1000].decode(errors="replace").strip()
            if text:
                self._tail.append(text[:200])
                log.warning("%s: %s", self.spec.model, text, extra=self._topic)
        return bool(data)


def _close_orphans(_: Worker, orphans: list[Orphan]) -> None:
    for orphan in orphans:
        orphan.sock.close()
