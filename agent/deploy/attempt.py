"""One attempt to bring a model into service: the phases in order, each journalled before it acts, with its deadline."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from agent.deploy import phases, placing, workers
from agent.deploy.adaptation import Adaptation
from agent.deploy.clock import PhaseClock, within
from agent.deploy.journal import Deployment
from agent.deploy.measuring import Progress, candidates_of
from agent.deploy.resources import BlockSource, Resources
from agent.deploy.standing import STAND_S
from agent.errors import (
    BlockError,
    Canceled,
    ManifestError,
    MessageError,
    NoFeasibleCandidate,
    OverlaidError,
    PhaseTimeout,
    StoreError,
    Superseded,
    TrustError,
    WorkerError,
    one_line,
)
from agent.package.verify import VerifiedPackage
from agent.placement.demand import Demand
from agent.serving.processes.process import Worker
from agent.types import Delivery, Phase, Placement, State, Verdict
from agent.waiting import to_the_end

log = logging.getLogger("deploy")

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


def _named(error: BaseException) -> str:
    """As ``resuming`` reads it; empty for a stop, after which the deployment goes on."""
    return f"{error.name}: {one_line(error)}" if isinstance(error, OverlaidError) else ""


def _useless(delivery: Delivery) -> int:
    return delivery.received - delivery.useful


def _silence(limit_s: float, useless: int) -> str:
    if not useless:
        return f"DOWNLOADING: nothing arrived for {limit_s:g} s; does overlaid fleet serve run?"
    return (
        f"DOWNLOADING: nothing of use arrived for {limit_s:g} s, only {useless / 1e6:.1f} MB that are damaged or not "
        "wanted; check who may publish on overlaid/v1/+/blocks/+/data, and the repository of overlaid fleet serve"
    )


@dataclass(slots=True)
class Attempt:
    """Runs the phases. Until ``take_over`` returns, the version that served before serves on or is put back.

    ``make_room`` frees what space it can; ``replaced`` is the old worker, loaded still, after a success.
    """

    res: Resources
    deployment: Deployment
    source: BlockSource
    adaptation: Adaptation
    make_room: Callable[[], Awaitable[None]]
    report: Report
    replaced: Worker | None = None

    async def deliver(self) -> VerifiedPackage:
        """DOWNLOADING and VERIFYING; a damaged or lost block is fetched again before that ends the attempt, with the
        named error."""
        for remaining in reversed(range(FETCHES)):
            self._enter(Phase.DOWNLOADING)
            async with self.source.turn:
                with self._uncounted():
                    package = await self._download()
            try:
                await self._phase(Phase.VERIFYING, partial(phases.assemble, self.res, package))
            except BlockError:
                if not remaining:
                    raise
                continue
            break
        return package

    @contextlib.contextmanager
    def _uncounted(self) -> Iterator[None]:
        """Power cuts in a download that takes long, for its hours or its link, are no reboot loop: after ``STAND_S``
        the attempt does not count any more, until what comes next."""
        journal, stood = self.res.journal, False

        def forgive() -> None:
            nonlocal stood
            with contextlib.suppress(StoreError):
                journal.forgive(self.deployment)
                stood = True

        timer = asyncio.get_running_loop().call_later(STAND_S, forgive)
        try:
            yield
        finally:
            timer.cancel()
        if stood:
            journal.begin(self.deployment)

    async def _download(self) -> VerifiedPackage:
        """PhaseTimeout when nothing arrives for the deadline: a slow link is no failure, a silent one is. The clock
        stands still while the source waits because it is configured so."""
        limit, time_ = self.res.settings.download_timeout_s, asyncio.get_running_loop().time
        digest = self.deployment.model.digest

        def clock() -> float:
            return time_() - self.source.delivery(digest).waited_s

        alive = clock()
        useless = _useless(self.source.delivery(digest))

        def progress(share: float) -> None:
            nonlocal alive
            alive = clock()
            self.report(Phase.DOWNLOADING, share)

        work = phases.download(self.res, self.source, self.deployment.model, self.make_room, progress)
        task = asyncio.get_running_loop().create_task(work)
        try:
            while not task.done():
                left = alive + limit - clock()
                if left <= 0:
                    raise PhaseTimeout(_silence(limit, _useless(self.source.delivery(digest)) - useless))
                await asyncio.wait({task}, timeout=left)
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def measure(self, package: VerifiedPackage, running: Placement | None) -> placing.Measured:
        """PROFILING: what every candidate costs here. ``running``: the model's placement so far."""
        model, adaptation = self.deployment.model, self.adaptation

        async def work(progress: Progress) -> placing.Measured:
            quiet = adaptation.quiet()
            async with adaptation.claiming(model.name, model.budget, quiet) as claim:
                return await placing.measured(
                    self.res,
                    package,
                    model.budget,
                    model.instances,
                    running,
                    adaptation.admit,
                    quiet,
                    claim,
                    progress,
                )

        return await self._phase(Phase.PROFILING, work)

    async def activate(self, package: VerifiedPackage, placement: Placement, newcomer: Demand) -> Worker:
        """ACTIVATING: the others make room for ``newcomer``, which is arriving; then a worker proves itself."""

        async def work(_: Progress) -> Worker:
            await self.adaptation.make_room(newcomer, placement.candidate)
            return await workers.start_placed(self.res, package, placement)

        return await self._phase(Phase.ACTIVATING, work)

    async def install(self, package: VerifiedPackage) -> Placement:
        """An FPGA overlay: loaded once for its self-test; then programs may use it."""
        res, model = self.res, self.deployment.model
        candidate = candidates_of(res, package.manifest)[0][0]
        worker = await self._phase(Phase.ACTIVATING, lambda _: workers.start_checked(res, package, candidate))
        await res.pool.stop(worker)
        reason = f"installed for programs: its self-test agrees on {candidate.device}"
        verdicts = (Verdict(candidate, True, reason),)
        placement = Placement(
            model.name,
            model.version,
            model.digest,
            model.budget,
            candidate,
            reason,
            verdicts,
            time.time(),
            model.instances,
        )
        self._commit(placement)
        return placement

    def _commit(self, placement: Placement) -> None:
        self.res.journal.save_placement(self.deployment.origin, placement)
        self.res.store.commit(placement.model, placement.digest)

    async def take_over(self, worker: Worker, placement: Placement) -> None:
        """Flip the route, soak, commit; on any failure the old worker serves again."""
        res, model = self.res, self.deployment.model
        old = await self._flip(worker)
        try:
            await self._phase(
                Phase.SOAKING,
                partial(phases.soak, res, model.name, worker),
                res.settings.soak_s + res.settings.phase_timeout_s,
            )
            self._commit(placement)
        except BaseException as error:
            await to_the_end(asyncio.ensure_future(self._roll_back(worker, old, error)))
            raise
        self.replaced = old

    async def _flip(self, worker: Worker) -> Worker | None:
        """The worker that served before. A cancellation on the way waits for the flip's end and takes it back: half
        a flip would leave a version in service that nobody knows of."""
        flip = asyncio.get_running_loop().create_task(self.res.pool.route(self.deployment.model.name, worker))
        canceled = await to_the_end(flip)
        failed = flip.exception()
        if failed is not None:
            await to_the_end(asyncio.ensure_future(self.res.pool.stop(worker)))
            raise canceled or failed
        old = flip.result()
        if canceled is not None:
            await to_the_end(asyncio.ensure_future(self._roll_back(worker, old, canceled)))
            raise canceled
        return old

    async def _roll_back(self, worker: Worker, old: Worker | None, error: BaseException) -> None:
        """The old worker is still loaded; should it have died meanwhile, a fresh one of its spec takes its place.

        ``error`` is journalled, so that a start which finds this phase knows how the deployment ended.
        """
        pool, name = self.res.pool, self.deployment.model.name
        try:
            self._enter(Phase.ROLLING_BACK, _named(error))
        except StoreError as refused:  # a full disk must not keep the old version from coming back
            log.error("%s: %s", name, refused)
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
        work: Callable[[Progress], Coroutine[Any, Any, T]],
        deadline_s: float | None = None,
    ) -> T:
        """PhaseTimeout when it takes too long; what a worker builds for this machine takes as long as it takes."""
        limit = deadline_s or self.res.settings.phase_timeout_s
        self._enter(phase)
        try:
            clock = PhaseClock(self.res.pool.builds, self.deployment.model.name)
            return await within(limit, clock, work(lambda share: self.report(phase, share)))
        except asyncio.TimeoutError as error:
            raise PhaseTimeout(f"{phase.value} took longer than {limit:g} s; deploy it again") from error

    def _enter(self, phase: Phase, why: str = "") -> None:
        self.res.journal.enter(self.deployment, phase, why)
        self.report(phase, 0.0)
