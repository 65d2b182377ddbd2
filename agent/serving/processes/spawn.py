"""How worker processes come to be: forked from a zygote where that is possible, else cold."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from agent.children import environment_of_children
from agent.serving.processes.limits import maths_threads
from agent.serving.processes.prctl import adopt_orphans
from agent.serving.spec import WorkerSpec


class Process(Protocol):
    """A child of this process; what ``subprocess.Popen`` offers. ``returncode`` is None until ``poll`` has seen it."""

    pid: int

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...

    def kill(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Spawned:
    """A worker process, the daemon's end of its control channel, and a pipe's descriptor that its stderr is read from.

    Both belong to whoever asked for the process.
    """

    process: Process
    control: socket.socket
    stderr: int


class Forked:
    """An adopted child; see ``Process``."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code (negative: the signal that ended it), collected at the first call after its end.

        As with Popen 0 where that is unknown, because this process ignores SIGCHLD.
        """
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = self.pid, 0
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def kill(self) -> None:
        """SIGKILL, unless it has been collected."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


async def start_cold(spec: WorkerSpec) -> Spawned:
    """A new interpreter, which imports what it needs. OSError when no process or descriptor is to be had."""
    with ends() as (ours, theirs):
        command = [sys.executable, "-m", "agent.serving.worker", str(theirs.control.fileno())]
        process = start(command, theirs.control, spec.file.threads, theirs.stderr)
        return Spawned(process, ours.control, ours.stderr)


@dataclass(frozen=True, slots=True)
class End:
    control: socket.socket
    stderr: int


@contextlib.contextmanager
def ends() -> Iterator[tuple[End, End]]:
    """The daemon's ends of a worker's channel and stderr, and the worker's, which are closed at the end.

    The daemon's are closed only after an error.
    """
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.callback(near.close)
        theirs.callback(far.close)
        read, write = os.pipe()
        ours.callback(os.close, read)
        theirs.callback(os.close, write)
        yield End(near, read), End(far, write)
        ours.pop_all()


def start(
    command: list[str], control: socket.socket, threads: int, stderr: int | None = None
) -> subprocess.Popen[bytes]:
    """Returns after exec. Without the broker's password in its environment; from /, where `python -m` looks first."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        pass_fds=[control.fileno()],
        cwd="/",
        env={**environment_of_children(), **maths_threads(threads)},
    )


_adopting = 0  # of this process, as what it switches


@contextlib.contextmanager
def adopting() -> Iterator[None]:
    """Meanwhile orphans among the descendants become children of this process. OSError where that is impossible.

    Not for longer than needed: orphans that nobody here knows of would stay zombies.
    """
    global _adopting  # noqa: PLW0603
    adopt_orphans(True)
    _adopting += 1
    try:
        yield
    finally:
        _adopting -= 1
        if not _adopting:
            adopt_orphans(False)
