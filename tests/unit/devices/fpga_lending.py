"""The FPGA service in this process, with a functional overlay as the FPGA."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.devices.fpga_service import server
from agent.devices.fpga_service.server import Policy, Server, listen
from agent.devices.fpga_service.wire import SOCKET_VARIABLE
from agent.overlay.spec import SPEC_NAME, overlay_folder, read_spec
from simulator.overlay.functional import FunctionalTransport


class Lent(FunctionalTransport):
    """Remembers what was opened."""

    opened: list[Lent]
    closed = False

    def close(self) -> None:
        self.used = self._core.memory.used
        self.closed = True
        super().close()


def copy_overlay(name: str, root: Path) -> Path:
    """The overlay's folder below ``root``, with rights that the service accepts."""
    folder = root / name
    folder.mkdir(parents=True, mode=0o755)
    shutil.copyfile(overlay_folder(name) / SPEC_NAME, folder / SPEC_NAME)
    for path in (root, folder):
        path.chmod(0o755)
    (folder / SPEC_NAME).chmod(0o644)
    return folder


@contextmanager
def short_folder() -> Iterator[Path]:
    """Paths of Unix sockets have at most 107 characters."""
    with tempfile.TemporaryDirectory(prefix="fpga") as folder:
        yield Path(folder)


@contextmanager
def lending(root: Path) -> Iterator[list[Lent]]:
    """A service that loads from ``root``, at the place where clients look for it; the transports that it opened."""
    opened: list[Lent] = []

    def load(folder: Path) -> Lent:
        transport = Lent(read_spec(folder))
        opened.append(transport)
        return transport

    with short_folder() as folder:
        path, stop = folder / "socket", threading.Event()
        policy = Policy(os.getuid(), os.getgid(), (root,), "a board")
        before = os.environ.get(SOCKET_VARIABLE)
        os.environ[SOCKET_VARIABLE] = str(path)
        look_s, server.LOOK_S = server.LOOK_S, 0.02
        with listen(path) as listening:
            thread = threading.Thread(target=Server(listening, policy, load).run, args=(stop,))
            thread.start()
            try:
                yield opened
            finally:
                stop.set()
                thread.join()
                server.LOOK_S = look_s
                os.environ.pop(SOCKET_VARIABLE)
                if before is not None:
                    os.environ[SOCKET_VARIABLE] = before
