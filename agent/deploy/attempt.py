"""One attempt to bring a model into service: the phases in order, each journalled before it acts, with its deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from agent.deploy import phases
from agent.deploy.journal import Deployment
from agent.deploy.resources import BlockSource, Resources
from agent.errors import (
    BlockError,
    Canceled,
    ManifestError,
    MessageError,
    NoFeasibleCandidate,
    OverlaidError,
    PhaseTimeout,
    Superseded,
    TrustError,
    WorkerError,
)
from agent.package.verify import VerifiedPackage
from agent.serving.process import Worker
from agent.types import Candidate, Phase, Placement, State

T = TypeVar("T")
Report = Callable[[Phase, float], None]
FETCHES = 3

_FINAL_STATES: tuple[tuple[type[OverlaidError], State], ...] = (
    (PhaseTimeout, State.TIMED_OUT),
    (Canceled, State.CANCELED),
    (Superseded, State.SUPERSEDED),
    (NoFeasibleCandidate, State.REJECTED),
    (TrustError, State.REJECTED),
    (MessageError, State.REJECTED),
    (ManifestError, State.REJECTED),
)


def final_state(error: OverlaidError) -> State:
    """REJECTED: the request itself cannot be met; FAILED: it could have been."""
    for kind, state in _FINAL_STATES:
        if isinstance(error, kind):
            return state
    return State.FAILED


@dataclass(slots=True)
class Attempt:
    """Runs the phases. Until it returns, the version that served before serves on or is put back.

    ``measuring`` is held from PROFILING to ACTIVATING; ``replaced`` is the old worker, loaded still, after a success.
    """

    res: Resources
    deployment: Deployment
    source: BlockSource
    measuring: asyncio.Lock
    power_cap_w: Callable[[], float | None]
    incumbent: Candidate | None
    report: Report
    replaced: Worker | None = None

    async def run(self) -> Placement:
        """Deploy; returns the committed placement. Raises the named error that ended it."""
        package = await self._deliver()
        async with self.measuring:
            placement, worker = await self._place(package)
        await self._take_over(worker)
        return placement

    async def _deliver(self) -> VerifiedPackage:
        """DOWNLOADING and VERIFYING; a damaged or lost block is fetched again before that ends the attempt."""
        for remaining in reversed(range(FETCHES)):
            package = await self._phase(
                Phase.DOWNLOADING,
                partial(phases.download, self.res, self.source, self.deployment.model),
                self.res.settings.download_timeout_s,
            )
            try:
                await self._phase(Phase.VERIFYING, partial(phases.assemble, self.res, package))
            except BlockError:
                if not remaining:
                    raise
                continue
            break
        return package

    async def _place(self, package: VerifiedPackage) -> tuple[Placement, Worker]:
        """PROFILING and ACTIVATING: what runs where, journalled, and a worker that proved itself there."""
        res, model = self.res, self.deployment.model
        placement = await self._phase(
            Phase.PROFILING,
            partial(phases.place, res, package, model.budget, self.power_cap_w(), self.incumbent),
        )
        res.journal.save_placement(self.deployment.origin, placement)
        worker = await self._phase(
            Phase.ACTIVATING, lambda _: phases.start_checked(res, package, placement.candidate)
        )
        return placement, worker

    async def _take_over(self, worker: Worker) -> None:
        """Flip the route, soak, commit; on any failure the old worker serves again."""
        res, model = self.res, self.deployment.model
        try:
            old = await res.pool.route(model.name, worker)
        except BaseException:
            await asyncio.shield(res.pool.stop(worker))
            raise
        try:
            await self._phase(
                Phase.SOAKING,
                partial(phases.soak, res, model.name, worker),
                res.settings.soak_s + res.settings.phase_timeout_s,
            )
            res.store.commit(model.name, model.digest)
        except BaseException:
            await asyncio.shield(self._roll_back(worker, old))
            raise
        self.replaced = old

    async def _roll_back(self, worker: Worker, old: Worker | None) -> None:
        """The old worker is still loaded; should it have died meanwhile, a fresh one of its spec takes its place."""
        pool, name = self.res.pool, self.deployment.model.name
        self._enter(Phase.ROLLING_BACK)
        if old is None:
            await pool.unroute(name)
            return
        try:
            failed = await pool.route(name, old)
        except WorkerError:
            fresh = await pool.start(old.spec)
            failed = await pool.route(name, fresh)
        await pool.stop(failed or worker)

    async def _phase(
        self,
        phase: Phase,
        work: Callable[[phases.Progress], Awaitable[T]],
        deadline_s: float | None = None,
    ) -> T:
        limit = deadline_s or self.res.settings.phase_timeout_s
        self._enter(phase)
        try:
            return await asyncio.wait_for(work(lambda share: self.report(phase, share)), limit)
        except asyncio.TimeoutError as error:
            raise PhaseTimeout(f"{phase.value} took longer than its deadline of {limit:g} s") from error

    def _enter(self, phase: Phase) -> None:
        self.res.journal.enter(self.deployment, phase)
        self.report(phase, 0.0)
