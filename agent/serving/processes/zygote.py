"""A zygote: a process that has imported a runtime and forks workers, which start in milliseconds and share its memory.

``python -m agent.serving.processes.zygote BACKEND FD``, FD being a SOCK_SEQPACKET socket to the daemon. It proves the
backend in a child, then says ``ready``; each ``fork`` with a worker's control socket and stderr is answered with a pid.
It forks twice, so that the daemon, which adopts orphans meanwhile, becomes the worker's parent: nobody dies with it.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from agent.errors import one_line
from agent.serving.processes.limits import confine, maths_threads
from agent.serving.processes.prctl import die_with_parent, name_process

MAX_REQUEST = 4096


class Zygote:
    """``daemon``: its pid, the parent of this process."""

    def __init__(self, daemon: socket.socket) -> None:
        self._socket = daemon
        self._daemon_pid = os.getppid()

    def run(self, backend: str) -> None:
        """Until the daemon is gone. What goes wrong before the first fork is told, and ends it."""
        try:
            _import(backend)
            self._prove(backend)
        except Exception as error:
            self._send({"op": "failed", "text": f"{type(error).__name__}: {one_line(error)}"})
            return
        gc.collect()
        gc.freeze()  # a collection in a worker would write to, and so copy, every page of what is shared
        self._send({"op": "ready"})
        while request := socket.recv_fds(self._socket, MAX_REQUEST, 2):
            data, fds, _, _ = request
            if not data:
                return
            try:
                pid = self._fork(int(json.loads(data)["threads"]), *fds)
                self._send({"op": "forked", "pid": pid})
            except OSError as error:
                self._send({"op": "failed", "text": f"cannot fork: {error.strerror}"})
            finally:
                for fd in fds:
                    os.close(fd)

    def _send(self, message: dict[str, Any]) -> None:
        self._socket.send(json.dumps(message).encode() + b"\n")

    def _prove(self, backend: str) -> None:
        """In a child: a runtime that has run something must not be forked any more."""
        from agent.devices.cpu import BACKENDS

        threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208
        if threads > 1:
            raise RuntimeError(f"{backend} starts {threads - 1} threads when imported: it cannot be forked")

        def prove() -> None:
            die_with_parent()
            BACKENDS[backend].prove()

        status = os.waitstatus_to_exitcode(os.waitpid(_child(prove), 0)[1])
        if status:
            raise RuntimeError(f"{backend} forked from a zygote failed with status {status}")

    def _fork(self, threads: int, control: int, stderr: int) -> int:
        """The pid of a new worker, which is the daemon's child when this returns; OSError."""
        receive, send = os.pipe()

        def middle() -> None:
            own = os.getpid()

            def work() -> None:
                for fd in (self._socket.fileno(), receive, send):
                    os.close(fd)
                while os.getppid() == own:
                    time.sleep(0.0001)
                self._become_worker(threads, control, stderr)

            os.write(send, str(_child(work)).encode())

        try:
            child = _child(middle)
            os.close(send)
            os.waitpid(child, 0)
            pid = os.read(receive, 16)
        finally:
            os.close(receive)
        if not pid:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return int(pid)

    def _become_worker(self, threads: int, control: int, stderr: int) -> None:
        from agent.serving.worker.service import serve

        os.dup2(stderr, 2)
        os.close(stderr)
        os.environ.update(maths_threads(threads))
        die_with_parent()
        if os.getppid() == self._daemon_pid:
            serve(socket.socket(fileno=control))


def _import(backend: str) -> None:
    """Everything that a worker will need, so that it is shared."""
    from agent.devices.board import installed_boards
    from agent.devices.cpu import BACKENDS

    importlib.import_module("agent.serving.worker.service")
    with contextlib.suppress(ImportError):
        importlib.import_module("uvloop")
    installed_boards()
    warm = BACKENDS[backend].warm
    assert warm is not None  # or nobody would ask for a zygote of it
    warm()


def _child(work: Callable[[], None]) -> int:
    """Fork a child that does ``work`` and ends; OSError."""
    pid = os.fork()
    if pid == 0:
        _end_with(work)
    return pid


def _end_with(work: Callable[[], None]) -> NoReturn:
    status = 1
    try:
        work()
        status = 0
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(2, f"{type(error).__name__}: {one_line(error)}\n".encode())
    finally:
        os._exit(status)


def main() -> None:
    """Entry point."""
    die_with_parent()
    os.setpgid(0, 0)  # so that the daemon finds what is left behind if this is killed in the middle of a fork
    confine()
    name_process("zygote")
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # were it ignored, there would be nothing to wait for
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group; the daemon ends it
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(BrokenPipeError, ConnectionError):
        Zygote(socket.socket(fileno=int(sys.argv[2]))).run(sys.argv[1])


if __name__ == "__main__":
    main()
