"""Forks daemons that have everything imported already, so that a restart costs no second: ``python -m
tests.faults.launcher CONFIG LOG HOOK``. On its standard input ``start`` is answered with a pid, ``kill`` with nothing.

What it adds to a daemon: having journalled a phase that the page asks for, it says so on the socket HOOK and waits.
DOWNLOADING is two: METADATA, when the helper that verifies the repository's metadata asks for its first file, and
DOWNLOADING, when that has ended and the package is next.
"""

from __future__ import annotations

import functools
import os
import signal
import socket
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from agent.app import daemon
from agent.config import load_config
from agent.deploy.journal import Journal
from agent.devices.probe import probe_board
from agent.logs.start import start_logging
from agent.package.tuf.parent import HelperVerifier, MetadataSource
from agent.package.verify import Trusted
from agent.serving.processes.prctl import die_with_parent
from agent.types import BoardInfo, Phase
from tests.faults.control import page_of_this_process

PHASES = (
    "QUEUED",
    "METADATA",
    "DOWNLOADING",
    "VERIFYING",
    "PROFILING",
    "ACTIVATING",
    "SOAKING",
    "ROLLING_BACK",
)


def main(config: Path, log: Path, hook: str) -> None:
    """Until standard input ends."""
    board = _prepare(config)
    child = 0
    for line in sys.stdin:
        if line.strip() == "start":
            child = os.fork()
            if child == 0:
                _daemon(config, log, hook, board)
            print(child, flush=True)
        elif line.strip() == "kill":
            os.kill(child, signal.SIGKILL)
        else:  # wait
            _, status = os.waitpid(child, 0)
            print(os.waitstatus_to_exitcode(status), flush=True)


def _prepare(config: Path) -> BoardInfo:
    """Everything imported, the board probed: its hardware does not change here."""
    return probe_board(load_config(config).node.board, config.parent)


def _daemon(config: Path, log: Path, hook: str, board: BoardInfo) -> NoReturn:
    status = 1
    try:
        die_with_parent()
        os.setsid()  # whatever it leaves behind is known by its session
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for number in (1, 2):
            os.dup2(descriptor, number)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        _stop_in_phases(hook)
        page_of_this_process().concern(os.getpid())
        start_logging(False)
        daemon.Daemon = functools.partial(daemon.Daemon, probe=lambda _name, _folder: board)  # type: ignore
        status = daemon.main(load_config(config))
    except BaseException as error:
        traceback.print_exc()
        print(f"the daemon ended: {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        os._exit(status)


def _stop_in_phases(hook: str) -> None:
    page = page_of_this_process()
    queue, enter, check = Journal.queue, Journal.enter, HelperVerifier.check

    def stop(phase: str) -> None:
        if page.stops_in(PHASES.index(phase)):
            with socket.socket(socket.AF_UNIX) as there:
                there.connect(hook)
                there.sendall(f"{phase}\n".encode())
                there.recv(1)

    def stopping_queue(self: Journal, *args: Any, **kwargs: Any) -> Any:
        done = queue(self, *args, **kwargs)
        stop("QUEUED")
        return done

    def stopping_enter(self: Journal, deployment: Any, phase: Any, *args: Any) -> None:
        enter(self, deployment, phase, *args)
        if phase is not Phase.DOWNLOADING:
            stop(phase.value)

    async def stopping_check(
        self: HelperVerifier, name: str, version: str, digest: str, source: MetadataSource
    ) -> Trusted:
        trusted = await check(self, name, version, digest, StoppingSource(source))
        stop("DOWNLOADING")
        return trusted

    @dataclass(frozen=True)
    class StoppingSource:
        source: MetadataSource

        @property
        def keep_newer(self) -> bool:
            return self.source.keep_newer

        async def metadata(self, name: str, limit: int) -> bytes | None:
            stop("METADATA")
            return await self.source.metadata(name, limit)

    setattr(Journal, "queue", stopping_queue)  # noqa: B010
    setattr(Journal, "enter", stopping_enter)  # noqa: B010
    setattr(HelperVerifier, "check", stopping_check)  # noqa: B010


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
