"""A served model: its socket, its worker, and what happens when that one crashes or hangs."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from agent.errors import DeviceLost, OverlaidError, WorkerError, one_line
from agent.serving.events import Kind
from agent.serving.processes.process import Worker
from agent.serving.processes.restart import GIVEN_UP_S, Backoff
from agent.serving.processes.vitals import Patience, Pulse
from agent.serving.recent import Failure, Recent
from agent.serving.spec import WorkerSpec
from agent.serving.standin import StandIn
from agent.waiting import set_within

STAND_IN_S = 1.0  # who asks a model that is down for longer is told so; for less, requests wait

Start = Callable[[WorkerSpec, socket.socket], Awaitable[Worker]]
Tell = Callable[[Kind, WorkerSpec, str], None]


class Route:
    """``start(spec, listener)`` gives a proved worker that serves; ``tell(kind, spec, text)`` hears of the crashes.

    ``worker`` is None while there is none. ``changing`` is held while another one takes over. ``held``: why nobody
    shall serve the model; empty when somebody shall. ``building()``: what a worker builds before it can serve.
    """

    def __init__(
        self,
        listener: socket.socket,
        spec: WorkerSpec,
        start: Start,
        tell: Tell,
        patience: Patience,
        building: Callable[[], str] = str,
    ) -> None:
        self.listener, self.spec = listener, spec
        self.worker: Worker | None = None
        self.restarts = 0
        self.recent = Recent()
        self.failures: Counter[Failure] = Counter()
        self.waiting = 0
        self.backoff = Backoff()
        self.changing = asyncio.Lock()
        self.retry_now = asyncio.Event()
        self._start, self._tell, self._patience, self._building = start, tell, patience, building
        self._pulse = Pulse(patience)
        self._down, self.held = "is being started", ""
        self._waiting: list[tuple[socket.socket, bytes]] = []
        self._stand_in = StandIn(lambda: self.worker, lambda: self.trouble)
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def trouble(self) -> str:
        """Why requests cannot be answered now; empty when they can."""
        if self.worker is None:
            building = self._building()
            return f"model {self.spec.model!r} {self._down}{building and f'; {building}'}; try again"
        if doubt := self._pulse.doubtful:
            return f"the worker of model {self.spec.model!r} does not answer: {doubt}"
        return ""

    async def serve_by(self, worker: Worker) -> Worker | None:
        """A worker that serves the socket takes over; gives the one before."""
        old = self.worker
        self._installed(worker)
        if old is not worker:
            supervisor, self._supervisor = self._supervisor, self._watch(worker)
            await _cancel(supervisor)
        return old

    async def hold(self, why: str) -> Worker | None:
        """Nobody serves the model from now on: requests are answered 503 with ``why``. Gives the worker before."""
        self.held, self._down = why, f"is not run now: {why}"
        old, self.worker = self.worker, None
        supervisor, self._supervisor = self._supervisor, None
        await _cancel(supervisor)
        self._stand_in_for_it()
        return old

    def lost(self, worker: Worker) -> None:
        """A worker is gone; the supervisor will hear of it."""
        if self.worker is worker:
            self.worker, self._down = None, f"is being restarted: its worker {worker.fate}"

    def building_began(self) -> None:
        """Who asks while there is no worker is told so, because that takes long."""
        if self.worker is None and self._building():
            self._stand_in_for_it()

    def wait(self, sock: socket.socket, unread: bytes) -> None:
        """Keep a connection to the model's socket until there is a worker."""
        if self._stand_in.listening:
            self._stand_in.adopt(sock, unread)
        else:
            self._waiting.append((sock, unread))

    async def close(self) -> None:
        """Restart no more; close what waits and the listening socket. The worker is left."""
        self.listener.close()
        await _cancel(self._supervisor)
        await self._stand_in.close()
        for sock, _ in self._waiting:
            sock.close()
        self._waiting.clear()

    def _installed(self, worker: Worker) -> None:
        self.waiting, self.held = 0, ""
        self.worker, self.spec, self._pulse = worker, worker.spec, Pulse(self._patience)
        self.backoff.started(time.monotonic())
        self._stand_in.retire()
        waiting, self._waiting = self._waiting, []
        for sock, unread in waiting:
            with sock, contextlib.suppress(WorkerError):
                worker.pass_connection(sock.fileno(), unread, door=False)

    def _watch(self, worker: Worker) -> asyncio.Task[None]:
        return asyncio.create_task(self._supervise(worker), name=f"watch {worker.spec.model}")

    async def _supervise(self, worker: Worker) -> None:
        """Wait for the worker's end, which is brought about when it hangs; then start it anew until one serves."""
        while not await set_within(worker.gone, self._patience.look_s):
            if worker.vitals is not None:
                self._pulse.look(time.monotonic(), worker.vitals)
            if self._pulse.hung:
                await worker.end(f"hung ({self._pulse.hung}) and was killed")
        self.lost(worker)
        fresh, delay = None, self._crashed(worker.cause)
        while fresh is None:
            self.retry_now.clear()
            if delay >= STAND_IN_S:
                self._stand_in_for_it()
            await set_within(self.retry_now, delay)
            try:
                fresh = await self._start(self.spec, self.listener)
            except DeviceLost as error:
                # Told already: whoever was told moves the model, or asks for a restart in good time.
                self._down, delay = f"waits for its device: {one_line(error)}", GIVEN_UP_S
            except (OverlaidError, OSError) as error:  # OSError: no descriptor or no process to be had
                delay = self._crashed(f"start failed: {one_line(error)}")
        self.restarts += 1
        self._installed(fresh)
        self._supervisor = self._watch(fresh)
        self._tell("restarted", self.spec, f"serves again as process {fresh.pid}")

    def _crashed(self, cause: str) -> float:
        """Tell, and say how many seconds to wait before the next start."""
        delay = self.backoff.crashed(time.monotonic())
        self._tell("crashed", self.spec, cause)
        self._down = f"is being restarted: {cause}"
        if self.backoff.given_up:
            text = f"crashes again and again; next start in {delay:g} s: {cause}"
            self._down = text
            self._tell("gave-up", self.spec, text)
        return delay

    def _stand_in_for_it(self) -> None:
        with contextlib.suppress(OSError):  # no descriptor: who connects waits, as in a short outage
            self._stand_in.listen(self.listener)
            waiting, self._waiting = self._waiting, []
            for sock, unread in waiting:
                self._stand_in.adopt(sock, unread)


async def _cancel(task: asyncio.Task[None] | None) -> None:
    if task is not None and task is not asyncio.current_task():
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
