"""A run of many nodes: start them without a stampede, watch them, stop them, sum up."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.fleet.connection import connect
from agent.serving.pool import MakeWorker
from agent.waiting import set_within
from simulator.faults import Happening
from simulator.nodes.light import light_workers
from simulator.nodes.limits import check_path, reserve_files
from simulator.nodes.node import Plan, SimNode, name_of
from simulator.nodes.observer import Observer
from simulator.nodes.process import Footprint, Usage
from simulator.nodes.report import Report, read_outcomes, summarise
from simulator.nodes.truth import Truth
from simulator.scenario.files import Scenario

STARTING = 8  # nodes that are not yet connected at any time
PATIENCE_S = 5.0  # for a node to connect, before others start
LOOK_S = 0.1

Show = Callable[[str, float], None]  # what there is to see in a line, and the share of it that is done


@dataclass(frozen=True, slots=True)
class Request:
    """``count`` nodes until each has a final state for ``model`` (if given), for ``seconds`` at most (if given)."""

    plan: Plan
    count: int
    scenario: Scenario | None = None
    model: str | None = None
    seconds: float | None = None


async def run_nodes(request: Request, stop: asyncio.Event, show: Show) -> Report:
    """Run until the request is met or ``stop`` is set. Nothing is left: no connection, no file.

    Raises UsageError (limits of this process), LinkError (the broker cannot be reached), ConfigError, OSError.
    """
    reserve_files(request.count)
    root = Path(tempfile.mkdtemp(prefix="sim-"))
    try:
        check_path(root, request.model or "model")
        run = _Run(request, root)
        async with connect(request.plan.mqtt, run.observer.handle) as link:
            run.observer.subscribe(link)
            try:
                await run.to_the_end(stop, show)
            finally:
                await asyncio.gather(*(node.stop() for node in run.nodes))
        return run.report()
    finally:
        shutil.rmtree(root, ignore_errors=True)


class _Run:
    def __init__(self, request: Request, root: Path) -> None:
        self.nodes: list[SimNode] = []
        names = [name_of(index) for index in range(request.count)]
        self.observer = Observer(request.plan.site, names, time.time())
        self._request, self._root = request, root
        self._usage = Usage()
        self._footprint = Footprint()
        self._interrupted = False

    async def to_the_end(self, stop: asyncio.Event, show: Show) -> None:
        """Until the request is met, its time is over or ``stop`` is set."""
        starting = asyncio.create_task(self._start())
        try:
            while not (self._interrupted or self._over()):
                if starting.done():
                    starting.result()
                show(self._look(), self._share())
                self._interrupted = await set_within(stop, LOOK_S)
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            self._footprint = self._usage.footprint(len(self.nodes))

    def report(self) -> Report:
        """Once the nodes are stopped."""
        outcomes = [outcome for node in self.nodes for outcome in read_outcomes(node, self._request.model)]
        return summarise(
            self._request.count, outcomes, self.observer.wire, self._footprint, self._interrupted
        )

    async def _start(self) -> None:
        gate, make_worker, now = asyncio.Semaphore(STARTING), light_workers(Truth()), time.monotonic()

        async def one(index: int) -> None:
            async with gate:
                node = self._make(index, make_worker, now)
                self.nodes.append(node)
                await node.start(PATIENCE_S)

        tasks = [asyncio.create_task(one(index)) for index in range(self._request.count)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if all(node.connected for node in self.nodes):
            self._usage.all_started()

    def _make(self, index: int, make_worker: MakeWorker, now: float) -> SimNode:
        plan, scenario = self._request.plan, self._request.scenario
        happenings, seed = [], index
        if scenario is not None:
            seed += scenario.seed
            if scenario.board == plan.board(index):
                happenings = [Happening.of(fault, now) for fault in scenario.faults]
        return SimNode(plan.config(self._root / name_of(index), index), make_worker, seed, happenings)

    def _over(self) -> bool:
        request = self._request
        if request.seconds is not None and self._usage.seconds >= request.seconds:
            return True
        return request.model is not None and len(self._done(request.model)) == request.count

    def _done(self, model: str) -> set[str]:
        return self.observer.ended(model) | {node.name for node in self.nodes if node.error}

    def _look(self) -> str:
        model = self._request.model
        states = ", ".join(f"{state} {count}" for state, count in sorted(self.observer.states(model).items()))
        dead = sum(bool(node.error) for node in self.nodes)
        parts = [
            f"online {self.observer.online}/{self._request.count}",
            f"{dead} ended by themselves" if dead else "",
        ]
        return "; ".join(filter(None, [*parts, f"{model or 'models'}: {states}" if states else ""]))

    def _share(self) -> float:
        request = self._request
        if request.model is not None:
            return len(self._done(request.model)) / request.count
        return min(1.0, self._usage.seconds / request.seconds) if request.seconds else 0.0
