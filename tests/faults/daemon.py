"""The daemon that is broken again and again: a real process, only its imports are done once (``launcher``)."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from agent.control import client
from agent.errors import OverlaidError
from tests.faults.control import Page
from tests.faults.processes import processes
from tests.system.stage import ROOT, Node, wait_until


class Broken(Exception):
    """What must never be; the text says what was found."""


class Daemon:
    """``close`` ends it, and its launcher."""

    def __init__(self, node: Node, page: Page, library: Path) -> None:
        self._node, self._page = node, page
        self._pid = 0
        self._sessions: list[int] = []
        self._stopped: socket.socket | None = None
        self._ends = contextlib.ExitStack()
        try:
            self._launcher = self._launch(library)
        except BaseException:
            self._ends.close()
            raise

    def _launch(self, library: Path) -> subprocess.Popen[str]:
        # A path of a socket has 107 bytes at most.
        hook = Path(self._ends.enter_context(tempfile.TemporaryDirectory(prefix="faults-"))) / "hook"
        self._hook = self._ends.enter_context(socket.socket(socket.AF_UNIX))
        self._hook.bind(str(hook))
        self._hook.listen()
        command = [sys.executable, "-m", "tests.faults.launcher", str(self._node.config), str(self._node.log)]
        launcher = subprocess.Popen(
            [*command, str(hook)],
            cwd=ROOT,
            env={**os.environ, **self._page.environment(library)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ends.callback(_end_launcher, launcher)
        return launcher

    def start(self, wait: bool = True) -> None:
        """A daemon; until it answers."""
        self._pid = int(self._tell("start"))
        self._sessions.append(self._pid)
        if wait:
            wait_until("the daemon", lambda: self.snapshot() is not None or self.check_alive(), 30)

    def check_alive(self) -> bool:
        """False; Broken when it ended by itself."""
        if not self.alive():
            raise Broken(f"the daemon ended by itself: {self._node.tail(8)}")
        return False

    def kill(self) -> None:
        """kill -9."""
        if not self._pid:
            return
        assert self._launcher.stdin is not None
        self._launcher.stdin.write("kill\n")
        self.reap()

    def reap(self) -> int:
        """Wait for its end, which must be near."""
        self._release()
        status = int(self._tell("wait"))
        self._pid = 0
        return status

    def alive(self) -> bool:
        try:
            return bool(self._pid) and "State:\tZ" not in Path(f"/proc/{self._pid}/status").read_text()
        except FileNotFoundError:
            return False

    def _tell(self, word: str) -> str:
        assert self._launcher.stdin is not None and self._launcher.stdout is not None
        self._launcher.stdin.write(f"{word}\n")
        self._launcher.stdin.flush()
        line = self._launcher.stdout.readline()
        if not line:
            raise RuntimeError(f"the launcher ended: {self._node.tail()}")
        return line

    def snapshot(self) -> dict[str, Any] | None:
        """None while it does not answer."""
        try:
            return dict(client.ask(self._node.runtime / "control.sock", "snapshot", timeout_s=3.0))
        except (OverlaidError, OSError):
            return None

    def stopped(self, timeout_s: float = 30.0) -> str:
        """Wait until it has journalled a phase that the page asks for, and waits for ``go_on``."""
        self._hook.settimeout(timeout_s)
        try:
            self._stopped, _ = self._hook.accept()
        except TimeoutError:
            raise Broken(f"the phase was not reached: {self._node.tail(5)}") from None
        return self._stopped.makefile().readline().strip()

    def go_on(self) -> None:
        """After ``stopped``."""
        if self._stopped is not None:
            with contextlib.suppress(OSError):
                self._stopped.sendall(b"g")
        self._release()

    def _release(self) -> None:
        if self._stopped is not None:
            self._stopped.close()
            self._stopped = None

    def orphans(self) -> list[str]:
        """Processes of daemons that are gone."""
        gone = {session for session in self._sessions if session != self._pid}
        return [f"{pid} {name}" for pid, name, session in processes() if session in gone]

    def own(self) -> list[tuple[int, str]]:
        """Its workers, zygotes and helpers, (pid, name), oldest first."""
        return [
            (pid, name) for pid, name, session in processes() if session == self._pid and pid != self._pid
        ]

    def close(self) -> None:
        """It dies with its launcher."""
        self._release()
        self._ends.close()


def _end_launcher(launcher: subprocess.Popen[str]) -> None:
    """Its daemon dies with it."""
    assert launcher.stdin is not None and launcher.stdout is not None
    launcher.kill()
    launcher.wait()
    launcher.stdin.close()
    launcher.stdout.close()
