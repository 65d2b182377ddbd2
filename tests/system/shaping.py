"""A TCP proxy that is a bad link: delay and jitter, a line's rate, what TCP makes of lost segments (stalls, in order),
connections that are reset, and times without any link.

It shapes what passes through it, so it needs no rights and no kernel module; a lost segment is a retransmission's delay
for itself and all that follows it, which is all that a program above TCP can see of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import socket
import threading
from collections import deque
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from tests.system.brokers import HOST

SEGMENT = 1460  # bytes
WINDOW = 128 << 10  # on the way in one direction of one connection
MIN_RTO_S = 0.2  # Linux's least retransmission time-out


@dataclass(frozen=True, slots=True)
class Profile:
    """One way: ``delay_s`` ± ``jitter_s``, ``loss`` of segments (0-1), bytes per second ``down`` (to the node), ``up``.

    ``reset_s``: mean time between resets of a connection; ``online_s``/``offline_s``: the link comes and goes. 0: no.
    """

    name: str
    delay_s: float
    jitter_s: float
    loss: float
    down: float
    up: float
    reset_s: float = 0.0
    online_s: float = 0.0
    offline_s: float = 0.0
    rto_s: float = MIN_RTO_S

    def faster(self, factor: float) -> Profile:
        """The same link in a film that runs ``factor`` times as fast."""
        return replace(
            self,
            delay_s=self.delay_s / factor,
            jitter_s=self.jitter_s / factor,
            down=self.down * factor,
            up=self.up * factor,
            reset_s=self.reset_s / factor,
            online_s=self.online_s / factor,
            offline_s=self.offline_s / factor,
            rto_s=self.rto_s / factor,
        )


SATELLITE = Profile(
    "satellite", 0.3, 0.025, 0.02, down=250e3, up=64e3
)  # 600 ms ± 50 there and back, 2 % loss
THREE_G = Profile("3G", 0.1, 0.05, 0.01, down=200e3, up=50e3, reset_s=60.0)
OFFLINE = Profile("offline 5/5 min", 0.02, 0.005, 0.0, down=1e6, up=250e3, online_s=300.0, offline_s=300.0)


@dataclass(slots=True)
class Counts:
    """``connections``: that the node made, ``failed``: of these, while there was no link; ``resets``: of ours."""

    connections: int = 0
    failed: int = 0
    resets: int = 0
    stalls: int = 0
    up: int = 0
    down: int = 0


class Shaper:
    """Runs on an event loop; ``shaped`` gives it one in a thread of its own."""

    def __init__(self, profile: Profile, port: int, seed: int = 1) -> None:
        self.profile, self.counts = profile, Counts()
        self.port = 0
        self._to, self._rng = port, random.Random(seed)
        self._open: set[_Connection] = set()
        self._online = asyncio.Event()
        self._silent = (
            False  # how the present time without a link shows: nothing arrives, or nothing can connect
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._online.set()
        self._server = await asyncio.start_server(self._accept, HOST, 0, limit=SEGMENT * 4)
        self.port = self._server.sockets[0].getsockname()[1]
        if self.profile.online_s:
            self._spawn(self._come_and_go())

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self._cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Reset every connection, with what is on its way; from any thread."""
        assert self._loop is not None
        done = threading.Event()
        self._loop.call_soon_threadsafe(self._cut)
        self._loop.call_soon_threadsafe(done.set)
        assert done.wait(10)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _come_and_go(self) -> None:
        online_s = self.profile.online_s / 20  # so that a short test sees it go, too
        while True:
            await asyncio.sleep(online_s)
            online_s = self.profile.online_s
            self._online.clear()
            self._silent = not self._silent
            if not self._silent:
                self._cut()
            await asyncio.sleep(self.profile.offline_s)
            if self._silent:
                self._cut()  # what lay between forgot them
            self._online.set()

    def _cut(self) -> None:
        for connection in list(self._open):
            self.counts.resets += 1
            connection.reset()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.counts.connections += 1
        if not self._online.is_set():
            self.counts.failed += 1
            if self._silent:
                with contextlib.suppress(OSError):
                    await asyncio.wait({asyncio.ensure_future(self._online.wait())})
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(HOST, self._to, limit=SEGMENT * 4)
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection((writer, far_writer))
        self._open.add(connection)
        work: set[asyncio.Future[Any]] = {
            asyncio.ensure_future(self._pump(reader, far_writer, self.profile.up, is_up=True)),
            asyncio.ensure_future(self._pump(far_reader, writer, self.profile.down, is_up=False)),
        }
        if self.profile.reset_s:
            work.add(asyncio.ensure_future(asyncio.sleep(self._rng.expovariate(1 / self.profile.reset_s))))
        try:
            await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # the end; asyncio's streams would log it
            pass
        finally:
            for task in work:
                task.cancel()
            results = await asyncio.gather(*work, return_exceptions=True)
            self.counts.resets += None in results and self.profile.reset_s > 0  # the time was up
            self._open.discard(connection)
            connection.reset()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rate: float, *, is_up: bool
    ) -> int:
        """Until one side ends; returns bytes (not None, which a reset returns)."""
        line = _Line(self.profile, rate, self._rng)
        total = 0
        sender = asyncio.ensure_future(self._deliver(line, writer))
        try:
            while data := await reader.read(SEGMENT * 4):
                total += len(data)
                if is_up:
                    self.counts.up += len(data)
                else:
                    self.counts.down += len(data)
                self.counts.stalls += line.put(data, asyncio.get_running_loop().time())
                while line.waiting > WINDOW and not sender.done():
                    await asyncio.sleep(self.profile.delay_s / 4)
                if sender.done():
                    break
            line.end()
            await sender
        except OSError:
            pass
        finally:
            sender.cancel()
        return total

    async def _deliver(self, line: _Line, writer: asyncio.StreamWriter) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due, data = await line.get()
            await asyncio.sleep(max(0.0, due - clock()))
            await self._online.wait()
            if not data:
                return
            writer.write(data)
            line.waiting -= len(data)
            await writer.drain()


class _Line:
    """One direction of a connection: what is on its way, in order."""

    def __init__(self, profile: Profile, rate: float, rng: random.Random) -> None:
        self._profile, self._rate, self._rng = profile, rate, rng
        self._queue: deque[tuple[float, bytes]] = deque()
        self._more = asyncio.Event()
        self._free = self._last = 0.0
        self.waiting = 0

    def put(self, data: bytes, now: float) -> int:
        """Data enters the line; returns how often it stalls."""
        profile = self._profile
        self._free = max(now, self._free) + len(data) / self._rate
        due = self._free + profile.delay_s + self._rng.uniform(-profile.jitter_s, profile.jitter_s)
        stalls = 0
        for _ in range(math.ceil(len(data) / SEGMENT)):
            rto = max(profile.rto_s, 2 * profile.delay_s)
            while self._rng.random() < profile.loss:
                due, rto, stalls = due + rto, 2 * rto, stalls + 1
        self._last = max(self._last, due)
        self.waiting += len(data)
        self._push(data)
        return stalls

    def end(self) -> None:
        self._push(b"")

    def _push(self, data: bytes) -> None:
        self._queue.append((self._last, data))
        self._more.set()

    async def get(self) -> tuple[float, bytes]:
        while not self._queue:
            self._more.clear()
            await self._more.wait()
        return self._queue.popleft()


@dataclass(frozen=True, slots=True, eq=False)
class _Connection:
    writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]

    def reset(self) -> None:
        for writer in self.writers:
            sock = writer.get_extra_info("socket")
            with contextlib.suppress(OSError, AttributeError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # RST, not FIN
            writer.transport.abort()


@contextmanager
def shaped(profile: Profile, port: int, seed: int = 1) -> Iterator[Shaper]:
    """A proxy before the broker at ``port``, in a thread of its own; its ``port`` is where nodes connect."""
    started, found = threading.Event(), list[Shaper]()
    loop = asyncio.new_event_loop()
    ending = asyncio.Event()

    async def run() -> None:
        shaper = Shaper(profile, port, seed)
        await shaper.start()
        found.append(shaper)
        started.set()
        await ending.wait()
        await shaper.stop()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield found[0]
    finally:
        loop.call_soon_threadsafe(ending.set)
        thread.join(10)
        loop.close()
