"""Workers whose runtime has something to build first: ``MODEL.build`` says what, ``MODEL.go`` that it is done.

``MODEL.batch`` says what the first run of a batch of another size than one builds.
"""

from __future__ import annotations

import functools
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from agent.devices import board, building
from agent.devices.board import open_board
from agent.hal import Board, Device, ModelFile, Run, Session
from agent.hal.device import Tensors
from agent.serving.processes.prctl import die_with_parent
from agent.serving.processes.spawn import Spawned, ends, start
from agent.serving.spec import WorkerSpec


async def start_building(spec: WorkerSpec) -> Spawned:
    """As ``start_cold``, with such a runtime."""
    with ends() as (ours, theirs):
        command = [sys.executable, str(Path(__file__).resolve()), str(theirs.control.fileno())]
        process = start(command, theirs.control, spec.file.threads, theirs.stderr)
        return Spawned(process, ours.control, ours.stderr)


class BuildingDevice:
    """A device that builds what the cache, ``MODEL.built``, does not have."""

    def __init__(self, device: Device) -> None:
        self._device, self.info = device, device.info

    def open(self, model: ModelFile, backend: str) -> Session:
        """See ``hal.Device.open``; for 30 s at most."""
        asked, built = model.path.with_suffix(".build"), model.path.with_suffix(".built")
        if asked.exists() and not built.exists():
            building.announce(asked.read_text())
            _wait(model.path.with_suffix(".go"))
            built.touch()
        session = self._device.open(model, backend)
        session.run = functools.partial(_run, model.path, session.run)  # type: ignore[method-assign]
        return session


def _run(path: Path, run: Callable[[Tensors], Run], tensors: Tensors) -> Run:
    asked = path.with_suffix(".batch")
    if asked.exists() and any(len(tensor) > 1 for tensor in tensors.values()):
        building.announce(asked.read_text())
        asked.unlink()
        _wait(path.with_suffix(".go"))
    return run(tensors)


def _wait(file: Path) -> None:
    """For 30 s at most."""
    deadline = time.monotonic() + 30
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.01)


class BuildingBoard:
    """This machine with such devices."""

    def __init__(self, inner: Board) -> None:
        self._inner = inner

    def device(self, device_id: str) -> BuildingDevice:
        return BuildingDevice(self._inner.device(device_id))


if __name__ == "__main__":
    die_with_parent()
    board.open_board = lambda name, folder: BuildingBoard(open_board(name, folder))  # type: ignore[assignment,return-value]
    from agent.serving.worker.service import serve

    serve(socket.socket(fileno=int(sys.argv[1])))
