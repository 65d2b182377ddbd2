"""One attempt to bring a model into service: the phases in order, each journalled before it acts, with its deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from agent.deploy import phases
from agent.deploy.journal import Deployment
from agent.deploy.resources import BlockSource, Resources
from agent.errors import (
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
from agent.serving.process import Worker
from agent.types import Candidate, Phase, Placement, State

T = TypeVar("T")
Report = Callable[[Phase, float], None]

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
    """Runs the phases. Until it returns, the version that served before serves on or is put back."""

    res: Resources
    deployment: Deployment
    source: BlockSource
    power_cap_w: float | None
    incumbent: Candidate | None
    report: Report

    async def run(self) -> Placement:
        """Deploy; returns the committed placement. Raises the named error that ended it."""
        res, model = self.res, self.deployment.model
        package = await self._phase(
            Phase.DOWNLOADING,
            lambda progress: phases.download(res, self.source, model, progress),
            res.settings.download_timeout_s,
        )
        await self._phase(Phase.VERIFYING, lambda progress: phases.assemble(res, package, progress))
        placement = await self._phase(
            Phase.PROFILING,
            lambda progress: phases.place(
                res, package, model.budget, self.power_cap_w, self.incumbent, progress
            ),
        )
        res.journal.save_placement(self.deployment.origin, placement)
        worker = await self._phase(
            Phase.ACTIVATING, lambda _: phases.start_checked(res, package, placement.candidate)
        )
        await self._take_over(worker)
        return placement

    async def _take_over(self, worker: Worker) -> None:
        """Flip the route, soak, commit; on any failure the old worker serves again."""
        res, model = self.res, self.deployment.model
        old = await res.pool.route(model.name, worker)
        try:
            await self._phase(
                Phase.SOAKING,
                lambda progress: phases.soak(res, model.name, worker, progress),
                res.settings.soak_s + res.settings.phase_timeout_s,
            )
            res.store.commit(model.name, model.digest)
        except BaseException:
            await asyncio.shield(self._roll_back(worker, old))
            raise
        if old is not None:
            await res.pool.stop(old)

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
