"""A journal of the test's own: systemd-journald in a mount namespace, with empty /run and /var/log/journal.

Programs started in it see systemd's usual paths; everything else of the file system is the machine's.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from tests.system.stage import stop_process, wait_until

PROGRAM = Path("/lib/systemd/systemd-journald")
_CONFIG = "[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\nRateLimitIntervalSec=0\n"
_SETUP = f"""
set -e
mount -t tmpfs tmpfs /run
[ ! -d /var/log/journal ] || mount -t tmpfs tmpfs /var/log/journal
mkdir -p /run/systemd/journal /run/log/journal /run/systemd/journald.conf.d
printf '{_CONFIG.encode("unicode_escape").decode()}' > /run/systemd/journald.conf.d/test.conf
exec {PROGRAM}
"""
# What systemd does for a unit: the stream as stderr, and its device and inode told.
_AS_UNIT = """
import os, socket, sys
stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
stream.connect("/run/systemd/journal/stdout")
stream.sendall(b"overlaid\\n\\n6\\n1\\n0\\n0\\n0\\n")
os.dup2(stream.fileno(), 1)
os.dup2(stream.fileno(), 2)
found = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{found.st_dev}:{found.st_ino}"
os.execv(sys.argv[1], sys.argv[1:])
"""


def why_not() -> str:
    """Why this machine cannot run one; empty when it can."""
    missing = [name for name in ("journalctl", "unshare", "nsenter") if shutil.which(name) is None]
    if not PROGRAM.exists() or missing:
        return (
            "systemd-journald, journalctl, unshare or nsenter is missing: apt-get install systemd util-linux"
        )
    if os.geteuid() != 0:
        return "a mount namespace needs root"
    if not Path("/etc/machine-id").exists() or not Path("/etc/machine-id").read_text().strip():
        return "journald needs /etc/machine-id: systemd-machine-id-setup"
    tried = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/run"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return f"no mount namespace here: {tried.stderr.strip()}" if tried.returncode else ""


class Journald:
    """Runs from ``with`` on."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Journald:
        with self._log.open("wb") as log:
            command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _SETUP]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until("systemd-journald", self._accepts)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        stop_process(self._process)

    def _accepts(self) -> bool:
        assert self._process is not None
        process = Path(f"/proc/{self._process.pid}")
        if process.joinpath("comm").read_text().strip() != PROGRAM.name[:15]:
            return False  # the shell still; /run may be the machine's
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
            return stream.connect_ex(str(process / "root/run/systemd/journal/stdout")) == 0

    def inside(self, *command: str | Path) -> list[str]:
        """The command line that runs ``command`` where this journal is the machine's."""
        assert self._process is not None
        return ["nsenter", f"--mount=/proc/{self._process.pid}/ns/mnt", "--", *map(str, command)]

    def unit(self, *command: str | Path, environ: Mapping[str, str] = os.environ) -> subprocess.Popen[bytes]:
        """Start ``command`` with its stdout and stderr in the journal, as systemd starts a service."""
        return subprocess.Popen(self.inside(sys.executable, "-c", _AS_UNIT, *command), env=dict(environ))

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run ``command`` in there to its end."""
        return subprocess.run(self.inside(*command), capture_output=True, text=True, timeout=120, check=False)

    @contextmanager
    def following(self, *command: str | Path) -> Iterator[IO[bytes]]:
        """Run ``command``, which does not end by itself, in there: its stdout."""
        process = subprocess.Popen(self.inside(*command), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        with process:
            assert process.stdout is not None
            try:
                yield process.stdout
            finally:
                stop_process(process)

    def entries(self) -> list[dict[str, Any]]:
        """All that is in it."""
        done = self.run("journalctl", "--all", "--output=json", "--no-pager", "--quiet")
        return [json.loads(line) for line in done.stdout.splitlines()]
