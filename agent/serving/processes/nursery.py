"""The daemon's side of its zygotes: started when a worker is first wanted, again when they end, ended when unused."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from typing import Any

from agent.devices.cpu import BACKENDS
from agent.errors import OverlaidError, WorkerCrashed, WorkerError
from agent.serving.processes.channel import Channel, Message
from agent.serving.processes.restart import Backoff
from agent.serving.processes.spawn import Forked, Process, Spawned, adopting, ends, start, start_cold
from agent.serving.spec import WorkerSpec
from agent.waiting import set_within

READY_S = 30.0  # to import a runtime on a slow board; workers wait: to import it themselves takes as long
FORK_S = 3.0  # a stopped zygote delays one start by so much
IDLE_S = 60.0  # without a worker
STRAYS_S = 2.0

log = logging.getLogger(__name__)


class Nursery:
    """Starts workers: forked for the CPU's backends, cold for everything else and while there is no zygote."""

    def __init__(self) -> None:
        self._keepers: dict[str, Keeper] = {}

    async def start(self, spec: WorkerSpec) -> Spawned:
        """OSError when no process or descriptor is to be had."""
        forked = await self._keeper(spec.candidate.backend).fork(spec) if forkable(spec) else None
        return forked or await start_cold(spec)

    async def close(self) -> None:
        """End the zygotes; workers live on."""
        await asyncio.gather(*(keeper.close() for keeper in self._keepers.values()))
        self._keepers.clear()

    def _keeper(self, backend: str) -> Keeper:
        keeper = self._keepers.get(backend)
        if keeper is None or keeper.ended:
            keeper = self._keepers[backend] = Keeper(backend)
        return keeper


def forkable(spec: WorkerSpec) -> bool:
    """A driver's state does not survive a fork, and numpy's threads cannot be made more after it."""
    numpy_threads = spec.candidate.backend == "program" and spec.file.threads > 1
    backend = BACKENDS.get(spec.candidate.backend)
    warms = backend is not None and backend.warm is not None
    return spec.candidate.device == "cpu" and warms and not numpy_threads


class Keeper:
    """Keeps one zygote of ``backend`` while workers use it."""

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._zygote: Zygote | None = None
        self._settled = asyncio.Event()  # not while one is being started
        self._workers: list[Process] = []
        self._used = True
        self._unwanted = False
        self._told = ""
        self._task = asyncio.create_task(self._keep(), name=f"zygote of {backend}")

    @property
    def ended(self) -> bool:
        """Nobody needed it any more, or it was closed."""
        return self._unwanted or self._task.done()

    async def fork(self, spec: WorkerSpec) -> Spawned | None:
        """None where there is no zygote; waits for one that is being started."""
        await self._settled.wait()
        if self._zygote is None:
            return None
        self._used = True
        try:
            spawned = await self._zygote.fork(spec.file.threads)
        except (OverlaidError, OSError) as error:
            topic = {"model": spec.model, "device": spec.candidate.device}
            log.warning("zygote of %s: %s; starting %s cold", self._backend, error, spec, extra=topic)
            return None
        self._workers.append(spawned.process)
        return spawned

    async def close(self) -> None:
        self._settled.set()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _keep(self) -> None:
        backoff = Backoff()
        try:
            while await self._live(backoff):
                await asyncio.sleep(backoff.crashed(time.monotonic()))
        finally:
            self._settled.set()

    async def _live(self, backoff: Backoff) -> bool:
        """The life of one zygote; False when it ended because nobody used it."""
        self._settled.clear()
        zygote = Zygote(self._backend)
        try:
            await zygote.start()
            backoff.started(time.monotonic())
            self._zygote, self._told = zygote, ""
            self._settled.set()
            while not await set_within(zygote.gone, IDLE_S):
                self._workers = [worker for worker in self._workers if worker.returncode is None]
                if not self._workers and not self._used:
                    self._unwanted = True
                    return False
                self._used = False
            self._tell("ended")
        except (OverlaidError, OSError) as error:
            self._tell(str(error))
        finally:
            self._zygote = None
            self._settled.set()
            await zygote.end()
        return True

    def _tell(self, why: str) -> None:
        if why != self._told:
            log.warning(
                "zygote of %s: %s; its workers start cold until another one is ready", self._backend, why
            )
        self._told = why


class Zygote:
    """A running zygote (``zygote.py``). ``gone``: it does not answer any more."""

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._turn = asyncio.Lock()
        self._answer: asyncio.Future[dict[str, Any]] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self.gone = asyncio.Event()

    async def start(self) -> None:
        """Raises OSError (no process to be had), WorkerCrashed; WorkerError with what it found wrong."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel = Channel(ours, self._received, self.gone.set)
        with theirs:
            module = "agent.serving.processes.zygote"
            command = [sys.executable, "-m", module, self._backend, str(theirs.fileno())]
            self._process = start(command, theirs, threads=1)
        await self._answered(READY_S)

    async def fork(self, threads: int) -> Spawned:
        """A new worker. Raises what ``start`` does."""
        async with self._turn:
            assert self._channel is not None
            with ends() as (ours, theirs), adopting():
                fds = [theirs.control.fileno(), theirs.stderr]
                self._channel.send({"op": "fork", "threads": threads}, fds=fds)
                pid = int((await self._answered(FORK_S))["pid"])
                with contextlib.suppress(ProcessLookupError):
                    os.setpgid(pid, pid)  # what stays in the zygote's process group is nobody's
                return Spawned(Forked(pid), ours.control, ours.stderr)

    async def end(self) -> None:
        """Kill it, and collect it and what it had begun to fork."""
        self.gone.set()
        if self._channel is not None:
            self._channel.close()
        if self._process is None:
            return
        self._process.kill()
        deadline = time.monotonic() + STRAYS_S
        try:
            while self._process.poll() is None or not _collected(self._process.pid):
                if time.monotonic() > deadline:
                    return
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:  # the daemon stops just now; a killed process takes milliseconds
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STRAYS_S)
            raise

    async def _answered(self, timeout: float) -> dict[str, Any]:
        answer = self._answer = asyncio.get_running_loop().create_future()
        ended = asyncio.ensure_future(self.gone.wait())
        try:
            await asyncio.wait([answer, ended], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            if not answer.done():
                self.gone.set()  # an answer that comes later would be taken for the next one
        if not answer.done():
            raise WorkerCrashed("it ended" if ended.done() else f"it did not answer within {timeout:g} s")
        head: dict[str, Any] = answer.result()
        if head["op"] == "failed":
            raise WorkerError(str(head["text"]))
        return head

    def _received(self, message: Message) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(message.head)


def _collected(group: int) -> bool:
    """Collect the children in a process group; True when none is left."""
    try:
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return True
    return False
