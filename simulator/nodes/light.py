"""Workers that are no processes: a modelled load and modelled runs on the node's simulated board; nobody is served."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from agent.devices.cpu import CpuDevice
from agent.errors import GoldenMismatch
from agent.serving.arrivals import arrivals, latencies
from agent.serving.pool import MakeWorker
from agent.serving.processes.process import OnConnection, OnStats, Worker
from agent.serving.spec import WorkerSpec
from agent.serving.unwell import UNWELL
from simulator.board import SimDevice
from simulator.cell import Cell, SharedCell
from simulator.clock import Clock, RealClock
from simulator.fpga import failing, load_overlay
from simulator.nodes.truth import Truth
from simulator.physics import Interval
from simulator.profile import load_profile
from simulator.runs import parts_of, reserve_run
from simulator.speed import run_time

CHUNK_S = 0.25  # reserved at once: what happens to a board meanwhile is felt by the next chunk
WATCH_S = 1.0  # between looks at the device of a model in service, instead of clients' requests


def light_workers(truth: Truth) -> MakeWorker:
    """What makes a node's workers. Those of one folder share its board with the node's meters and store."""
    cells: dict[Path, Cell] = {}

    def make(spec: WorkerSpec, on_stats: OnStats, on_connection: OnConnection) -> Worker:
        cell = cells.get(spec.board_folder)
        if cell is None:
            profile = load_profile(spec.board.partition(":")[2])
            cell = cells[spec.board_folder] = SharedCell(spec.board_folder, profile, RealClock())
        return LightWorker(spec, on_stats, on_connection, truth, cell)

    return make


class LightWorker(Worker):
    """See ``Worker``. Outputs are computed only for golden vectors, once for all nodes (``Truth``)."""

    def __init__(
        self, spec: WorkerSpec, on_stats: OnStats, on_connection: OnConnection, truth: Truth, cell: Cell
    ) -> None:
        super().__init__(spec, on_stats, on_connection)
        self.pid = os.getpid()
        self._truth, self._cell = truth, cell
        self._device = SimDevice(cell, spec.candidate.device, CpuDevice())
        self._profile = cell.profile.device(spec.candidate.device)
        self._index = cell.profile.devices.index(self._profile)
        self._holds = False
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take the modelled time of loading. Raises what opening a model on a simulated device raises."""
        clock = self._cell.clock
        with self._telling():
            self._device.check_format(self.spec.file.format)
            self._device.check_lost()
            work = await self._truth.work(self.spec)
            started = clock.now()
            await _sleep_until(clock, self._device.begin_load(work))
            self._device.check_lost(started)
            self._cell.hold(self._index)
        self._holds = True
        self._work = work
        self._run = run_time(self._cell.profile, self._index, work)
        self.load_s = clock.now() - started
        self.memory_mb = self.spec.file.path.stat().st_size / 1e6

    async def check(self) -> None:
        """See ``Worker.check``. Raises DeviceLost, DmaTimeout and OverlayLoadError too."""
        await self.profile(0.0, 1)
        problem = await self._truth.problem(self.spec)
        if problem is not None:
            raise GoldenMismatch(f"{self.spec}: {problem}")

    async def profile(self, seconds: float, max_runs: int) -> list[float]:
        """Device seconds of runs back to back, none of them computed."""
        runs: list[Interval] = []
        clock = self._cell.clock
        started = clock.now()
        end = started + seconds
        with self._telling():
            while not runs or (len(runs) < max_runs and clock.now() < end):
                until = self._reserve(min(clock.now() + CHUNK_S, end), max_runs - len(runs), runs)
                await _sleep_until(clock, until)
                self._device.check_lost(started)
        parts = [parts_of(run, self._profile.kind) for run in runs]
        self.parts = {kind: sum(part[kind] for part in parts) / len(parts) for kind in parts[0]}
        return [run.seconds for run in runs]

    async def open_loop(self, seconds: float, rate_hz: float, seed: int) -> list[float]:
        """See ``Worker.open_loop``."""
        clock, began = self._cell.clock, self._cell.clock.now()
        done: list[tuple[float, float]] = []
        for arrival in arrivals(seconds, rate_hz, seed):
            await _sleep_until(clock, began + arrival)
            (run_s,) = await self.profile(0.0, 1)
            done.append((arrival, run_s))
        return latencies(done)

    async def batch_times(self, seconds: float, limit_s: float) -> dict[int, list[float]]:  # noqa: ARG002
        """Not measured: nobody is served."""
        return {}

    def _reserve(self, end: float, most: int, runs: list[Interval]) -> float:
        """Reserve one run at least, at most ``most`` and none that begins after ``end``; when the last one ends."""
        self._device.check_lost()
        with self._cell.update() as moment:
            load_overlay(moment, self._index, self._work)
            failure = failing(moment, self._index)
            if failure is not None:
                raise failure.error
            until = moment.now
            for _ in range(most):
                interval = reserve_run(
                    moment.physics, moment.state, self._index, self._run, moment.now, until
                )
                runs.append(interval)
                until = interval.end
                if until >= end:
                    break
        return until

    async def serve(self, listener: socket.socket) -> None:  # noqa: ARG002 (as Worker has it)
        """Clients of a light node wait in vain; only whether its device is still there is looked at."""
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(), name=f"watch {self.spec}")

    async def drain(self) -> None:
        """Nobody is served."""

    async def stop(self) -> None:
        """See ``Worker.stop``."""
        await self.end()

    async def end(self, fate: str = "") -> None:  # noqa: ARG002
        """Free the device."""
        if self._watching is not None:
            self._watching.cancel()
        if self._holds:
            self._holds = False
            self._cell.release(self._index)
        self.gone.set()

    def pass_connection(self, fd: int, unread: bytes, door: bool) -> None:
        """Leave it to the sender to close: nobody is served."""

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Tell the pool of failures that speak of the device, as a process does."""
        try:
            yield
        except UNWELL as error:
            self.on_unwell(self, error)
            raise

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            with contextlib.suppress(*UNWELL), self._telling():
                self._device.check_lost(self._cell.clock.now() - WATCH_S)


async def _sleep_until(clock: Clock, moment: float) -> None:
    while (left := moment - clock.now()) > 0:
        await asyncio.sleep(left)
