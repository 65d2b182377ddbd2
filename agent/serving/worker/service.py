"""A worker process: loads one model, proves it on the golden vectors, serves it. It ends when its channel does."""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from agent.devices import building
from agent.errors import InferenceError, ModelLoadError, OverlaidError, WorkerError
from agent.hal import Run, Session
from agent.serving.arrivals import latencies
from agent.serving.http.connection import Connection
from agent.serving.http.connections import Connections
from agent.serving.http.seat import Seat
from agent.serving.processes.channel import Channel, Message
from agent.serving.processes.custody import Slots
from agent.serving.processes.limits import confine, limit_memory, memory_text, out_of_memory, release_memory
from agent.serving.processes.prctl import name_process
from agent.serving.processes.vitals import Vitals
from agent.serving.spec import WorkerSpec
from agent.serving.worker.api import ModelApi
from agent.serving.worker.checks import GoldenData
from agent.serving.worker.engine import Engine
from agent.serving.worker.regions import WorkerRegions
from agent.serving.worker.watched import Watched

STATS_S = 1.0
PROVE_S = 10.0
UNWELL_S = 1.0  # of each kind of error; one says it all
TELL_S = 1.0  # what a runtime builds
REST_S = 5.0  # without a request; then the C library gives back what it kept of large ones for the next

Answer = tuple[dict[str, Any], bytes]  # fields and payload


class Service:
    """Answers the daemon's messages, one task each, and reports statistics every second."""

    def __init__(self, control: socket.socket) -> None:
        self._channel = Channel(control, self._received, self._orphaned)
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._tasks: set[asyncio.Task[None]] = set()
        self._golden: GoldenData | None = None  # until it serves
        self._proof: asyncio.Task[None] | None = None
        self._told_waiting = 0
        self._rested_s = REST_S
        self._told: dict[str, float] = {}  # name of an error that speaks of the device: monotonic s
        self._operations: dict[str, Callable[[Message], Awaitable[Answer]]] = {
            "load": self._load,
            "check": self._check,
            "profile": self._profile,
            "open-loop": self._open_loop,
            "batch": self._batch,
            "describe": self._describe,
            "serve": self._serve,
            "drain": self._drain,
            "stop": self._stop,
            "region": self._region,
            "forget-region": self._forget_region,
        }
        self._slots: Slots
        self._connections: Connections
        self.done = asyncio.Event()

    def _received(self, message: Message) -> None:
        op = message.head["op"]
        if op == "connection":
            seat = self._slots.seat(int(message.head["slot"]))
            self._connections.adopt(message.take_socket(), bool(message.head["door"]), message.payload, seat)
            return
        if op == "load":
            self._vitals = Vitals(message.fds.pop(0))
        if op == "region":  # one at a time: the daemon waits for each answer
            self._memory = message.fds.pop(0)
        if op == "serve":
            self._listener = message.take_socket()
        task = self._loop.create_task(self._answer(op, message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _orphaned(self) -> None:
        os._exit(
            0
        )  # the daemon is gone; nobody can be told, and runs in progress cannot be interrupted otherwise

    async def _answer(self, op: str, message: Message) -> None:
        number = message.head["id"]
        try:
            fields, payload = await self._operations[op](message)
        except Exception as error:
            self._failed(number, *self._explained(op, error))
        else:
            ok = {**fields, "memory_mb": _resident_mb()}
            self._channel.send({"op": "answer", "id": number, "ok": ok}, payload)
            if op == "stop":
                self.done.set()

    def _explained(self, op: str, error: Exception) -> tuple[str, str]:
        """The name and the text of an error."""
        if out_of_memory(error):
            kind = ModelLoadError if op == "load" else InferenceError
            return kind.__name__, memory_text(error, self._spec.memory_mb)
        if isinstance(error, OverlaidError):
            return error.name, str(error)
        return WorkerError.__name__, f"{op}: {type(error).__name__}: {error}"

    def _failed(self, number: int, name: str, text: str) -> None:
        error = {"name": name, "text": text[:4000]}
        self._channel.send({"op": "answer", "id": number, "error": error})

    async def _load(self, message: Message) -> Answer:
        started = time.monotonic()
        self._spec = WorkerSpec.from_json(message.payload)
        name_process(self._spec.model)
        building.listen(self._building)
        limit_memory(self._spec.memory_mb)

        def load() -> list[Session]:
            from agent.devices.board import open_board

            candidate = self._spec.candidate
            device = open_board(self._spec.board, self._spec.board_folder).device(candidate.device)
            sessions = (device.open(self._spec.file, candidate.backend) for _ in range(self._spec.instances))
            return [Watched(session, self._vitals, place) for place, session in enumerate(sessions)]

        self._engine = Engine(await self._loop.run_in_executor(None, load), self._spec.max_batch)
        self._regions = WorkerRegions(self._spec.max_body_bytes)
        self._api = ModelApi(
            self._spec,
            self._engine,
            self._give_back,
            self._pass_on,
            self._forget,
            self._unwell,
            self._starved,
            self._regions,
        )
        self._slots = Slots(self._vitals, self._channel)
        self._connections = Connections(self._api, self._slots)
        self._report()
        return {"load_s": time.monotonic() - started}, b""

    async def _check(self, _: Message) -> Answer:
        await self._engine.check(self._spec)
        return {}, b""

    async def _profile(self, message: Message) -> Answer:
        seconds, most = float(message.head["seconds"]), int(message.head["max_runs"])
        runs = await self._engine.profile(self._inputs(), seconds, most)
        return {"parts": _parts(runs)}, array.array("d", [run.device_s for run in runs]).tobytes()

    async def _open_loop(self, message: Message) -> Answer:
        head = message.head
        seconds, rate_hz, seed = float(head["seconds"]), float(head["rate_hz"]), int(head["seed"])
        runs = await self._engine.open_loop(self._inputs(), seconds, rate_hz, seed)
        found = latencies((arrival, run.device_s) for arrival, run in runs)
        return {}, array.array("d", found).tobytes()

    def _inputs(self) -> GoldenData:
        """Read once: a model is profiled by many calls."""
        if self._golden is None:
            self._golden = GoldenData(self._spec.golden, self._spec.file)
        return self._golden

    async def _batch(self, message: Message) -> Answer:
        seconds, limit_s = float(message.head["seconds"]), float(message.head["limit_s"])
        times = await self._engine.batch_times(self._spec, seconds, limit_s)
        return {}, json.dumps(times).encode()

    async def _describe(self, _: Message) -> Answer:
        api = self._api
        about = {"metadata": api.metadata(), "config": api.config(), "statistics": api.statistics()}
        return {}, json.dumps(about).encode()

    async def _serve(self, _: Message) -> Answer:
        self._connections.stop_listening()
        self._connections.listen(self._listener, door=False)
        self._api.drain(False)
        self._golden = None
        building.listen(lambda _: self._vitals.build_began())  # for a run, which takes its time
        release_memory()  # what loading and checking took
        return {}, b""

    async def _drain(self, _: Message) -> Answer:
        self._connections.stop_listening()
        self._api.drain(True)
        self._return_idle()
        return {}, b""

    async def _stop(self, message: Message) -> Answer:
        deadline = time.monotonic() + float(message.head["grace_s"])
        await self._drain(message)
        while len(self._connections) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
            self._return_idle()
        self._slots.tell()
        self._send_stats()
        self._engine.close()
        return {}, b""

    async def _region(self, message: Message) -> Answer:
        head = message.head
        where = int(head["offset"]), int(head["byte_size"])
        self._regions.add(int(head["uid"]), str(head["name"]), self._memory, bool(head["mapped"]), *where)
        return {}, b""

    async def _forget_region(self, message: Message) -> Answer:
        self._regions.forget(int(message.head["uid"]), str(message.head["name"]))
        return {}, b""

    def _return_idle(self) -> None:
        for connection in self._connections:
            if connection.idle:
                self._give_back(connection, False)

    def _give_back(self, connection: Connection, elsewhere: bool) -> None:
        """The daemon has a descriptor of it; what is being turned away is not worth one."""
        seat = connection.seat
        if seat is None:
            connection.close()
            return

        self._hand_over(connection, seat, elsewhere, b"")

    def _pass_on(self, connection: Connection, request: bytes) -> bool:
        """See ``Stranded``."""
        try:
            return connection.seat is not None and self._hand_over(
                connection, connection.seat, False, request
            )
        except WorkerError:  # the daemon does not read just now
            return False

    def _hand_over(self, connection: Connection, seat: Seat, elsewhere: bool, request: bytes) -> bool:
        def send(_: int, unread: bytes) -> None:
            self._channel.send({"op": "connection", "slot": seat.slot, "elsewhere": elsewhere}, unread)

        if not connection.hand_over(send, request):
            return False
        connection.seat = None
        self._slots.free(seat)
        return True

    def _forget(self, connection: Connection) -> None:
        self._connections.forget(connection)

    def _unwell(self, error: OverlaidError) -> None:
        now = time.monotonic()
        if now - self._told.get(error.name, -UNWELL_S) < UNWELL_S:
            return
        self._told[error.name] = now
        with contextlib.suppress(WorkerError):  # the daemon does not read just now; the next one tells it
            self._channel.send({"op": "unwell", "name": error.name, "text": str(error)[:4000]})

    def _building(self, what: str) -> None:
        """A runtime builds something from now on, maybe without letting any other thread run: tell it before."""
        what = what.replace(self._spec.file.path.name, self._spec.model)  # the store calls files by digests
        self._vitals.build_began()
        told = threading.Event()

        def tell() -> None:
            with contextlib.suppress(WorkerError):  # the daemon does not read just now
                self._channel.send({"op": "building", "what": what})
            told.set()

        if threading.get_ident() == self._thread:
            tell()
        else:
            self._loop.call_soon_threadsafe(tell)
            told.wait(TELL_S)

    def _starved(self) -> None:
        """A request found no memory: go on only while an ordinary run still finds some."""
        self._loop.call_soon(release_memory)  # once what the request brought is free
        if self._proof is None or self._proof.done():
            self._proof = self._loop.create_task(self._prove())

    async def _prove(self) -> None:
        try:
            await self._engine.profile(GoldenData(self._spec.golden, self._spec.file), 0.0, 1)
        except Exception as error:
            if out_of_memory(error):
                sys.stderr.write(f"cannot go on: {memory_text(error, self._spec.memory_mb)}\n")
                sys.stderr.flush()
                os._exit(1)
        await asyncio.sleep(PROVE_S)

    def _report(self) -> None:
        self._vitals.beat()
        self._loop.call_later(STATS_S, self._report)
        self._send_stats()
        if self._rested_s < REST_S:
            self._rested_s += STATS_S
            if self._rested_s >= REST_S:
                release_memory()

    def _send_stats(self) -> None:
        report = self._api.take_report()
        if report.latency.total or report.failures or report.waiting != self._told_waiting:
            latency, self._told_waiting, self._rested_s = report.latency, report.waiting, 0.0
            fields = {"latency": latency.pairs(), "seconds": latency.seconds, "failures": report.failures}
            runs = {"device": report.device.pairs(), "device_s": report.device.seconds}
            self._channel.send({"op": "stats", "waiting": report.waiting, **fields, **runs})


def serve(control: socket.socket) -> None:
    """The life of a worker, in the main thread of its process; ``control``: its end of the control channel."""
    confine()
    name_process("worker")
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group; the daemon stops its workers
        signal.signal(number, signal.SIG_IGN)
    control.set_inheritable(False)
    new_event_loop().run_until_complete(_main(control))


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is installed: a request takes less of the processor's time."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


async def _main(control: socket.socket) -> None:
    service = Service(control)
    await service.done.wait()
    sys.stderr.flush()
    os._exit(0)  # runtimes with threads of their own may hang in their destructors


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _parts(runs: Sequence[Run]) -> dict[str, float]:
    """Mean seconds of a run on each kind of device that it used; empty when it used one."""
    kinds = {kind for run in runs for kind in run.parts}
    return {kind: sum(run.parts.get(kind, 0.0) for run in runs) / len(runs) for kind in sorted(kinds)}
