"""The loaded model of a worker: where and when its runs happen.

Short runs happen on the event loop (a thread costs more than it frees), long ones on a thread for each instance of the
model. Requests wait in one line, by priority and arrival; a run takes several of them where that pays.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from agent.hal import Run, Session
from agent.histogram import Histogram
from agent.serving.http.messages import RequestError
from agent.serving.spec import WorkerSpec
from agent.serving.unwell import UNWELL
from agent.serving.worker import measure
from agent.serving.worker.batches import members
from agent.serving.worker.checks import GoldenData
from agent.serving.worker.instance import Instance
from agent.serving.worker.job import Executed, Job, execute
from agent.serving.worker.queue import Line, Pace, refusal, too_late
from agent.serving.worker.statistics import Statistics

INLINE_S = 0.005  # a thread costs ~0.2 ms a run, more than blocking the loop for a run this short
PARALLEL_INLINE_S = (
    0.0003  # with several instances a thread pays for itself earlier: other runs go on meanwhile
)
BURST_S = 0.005  # of requests on the loop, then everything else has its turn: other connections, the daemon
BESIDE_S = 0.0001  # about what reading and answering a request takes beside its run
_NUDGE = 1.05
_SLOW_S = 1.0  # until shown otherwise

T = TypeVar("T")


class Engine:
    """``sessions``: one for each run that may go on at a time; ``max_batch``: samples of several requests that a run
    takes at most.

    The typical run time is first that of the golden or profiling runs.
    """

    def __init__(self, sessions: Sequence[Session], max_batch: int = 1) -> None:
        self.inputs, self.outputs = sessions[0].inputs, sessions[0].outputs
        self.max_batch = max_batch
        self.statistics = Statistics()
        self._loop = asyncio.get_running_loop()
        self._instances = [Instance(session) for session in sessions]
        self._busy = 0
        self._inline_s = INLINE_S if len(sessions) == 1 else PARALLEL_INLINE_S
        self._run_s = self._share_s = _SLOW_S
        self._usual = 1.0  # samples of a typical run
        self._line: Line[Job] = Line()
        self._chores: deque[tuple[Callable[[Session], Any], asyncio.Future[Any]]] = deque()
        self._burst_s = 0.0  # of requests on the loop since it last looked at everything else
        self._passing = False
        self._device = Histogram()

    # -- requests ------------------------------------------------------------------------------------------------

    @property
    def inline(self) -> bool:
        """True when ``run_now`` may be called: runs are short, nobody waits, and the loop is not held up by it."""
        return (
            self._run_s <= self._inline_s
            and self.max_batch == 1
            and not self._busy
            and self._burst_s < BURST_S
            and not self._line
        )

    @property
    def waiting(self) -> int:
        """Requests that wait for a run."""
        return len(self._line)

    @property
    def run_s(self) -> float:
        """Typical seconds of a run."""
        return self._run_s

    def brief(self, samples: int) -> bool:
        """Whether a run on so many samples, be they far more than usual, is short enough for the loop."""
        return self._run_s * max(1.0, samples / self._usual) <= self._inline_s

    def run_now(self, tensors: Any, samples: int = 1) -> Run:
        """Run on the calling thread, the loop's. Raises what ``Session.run`` raises."""
        try:
            run = self._instances[0].session.run(tensors)
        except UNWELL:  # a device that does not answer takes its time to say so
            self._run_s = self._share_s = _SLOW_S
            raise
        self._burst_s += run.wall_s + BESIDE_S
        self._note(run.wall_s, samples)
        self._share_s = self._run_s
        if samples == 1:
            self._device.add(run.device_s)
        return run

    def _note(self, wall_s: float, samples: int) -> None:
        """Running medians: robust against single slow runs, and cheap."""
        self._run_s *= _NUDGE if wall_s > self._run_s else 1 / _NUDGE
        self._usual = max(1.0, self._usual * (_NUDGE if samples > self._usual else 1 / _NUDGE))

    def take_runs(self) -> Histogram:
        """Runs for requests of one sample each since the last call, by their device seconds."""
        taken, self._device = self._device, Histogram()
        return taken

    def submit(self, job: Job) -> None:
        """Let it wait for its turn; ``job.finish`` is called once, from the loop, with what came out.

        Raises RequestError 503 or 504 when it is turned away on arrival.
        """
        pace = self._pace()
        job.deadline_s = pace.deadline_s(job.timeout_s)
        refused = self._refusal(pace, job)
        if refused is not None and self._drop_gone():
            refused = self._refusal(pace, job)
        if refused is not None:
            raise refused
        job.timer = self._loop.call_later(job.deadline_s, self._expired, job)
        self._line.add(job, job.priority)
        self._pump()

    def cancel(self, job: Job) -> None:
        """Its client has gone: a run is not begun for it any more."""
        self._line.remove(job)
        job.settle()

    def _pace(self) -> Pace:
        return Pace(self._run_s, self._share_s, len(self._instances))

    def _refusal(self, pace: Pace, job: Job) -> RequestError | None:
        return refusal(pace, len(self._line), self._ahead(job.priority), job.deadline_s)

    def _ahead(self, priority: int) -> float:
        """Requests that go first; what goes on counts for what is left of it, nothing where an instance is free."""
        waiting = self._line.ahead(priority)
        if self._busy < len(self._instances):
            return waiting
        now = self._loop.time()
        left = sum(max(0.0, 1 - (now - instance.since) / self._run_s) for instance in self._instances)
        return waiting + left * self._run_s / self._share_s

    def _drop_gone(self) -> bool:
        """Forget who waits and has gone; True when there was one."""
        gone = [job for job in self._line if job.gone()]
        for job in gone:
            self.cancel(job)
        return bool(gone)

    def _expired(self, job: Job) -> None:
        self._line.remove(job)
        job.deliver(too_late(job.deadline_s, self._pace(), self._ahead(job.priority)))

    # -- runs ----------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Give idle instances something to do."""
        while self._busy < len(self._instances):
            if self._chores:
                self._begin_chore(*self._chores.popleft())
            elif not self._line:
                return
            elif self.brief(self._line.first().samples):
                if not self._passing:
                    self._passing = True
                    self._loop.call_soon(self._pass)
                return
            elif jobs := self._take():
                self._begin_run(jobs)

    def _pass(self) -> None:
        """Short runs on the loop, for a moment; those who come meanwhile have been read before the next pass."""
        self._passing = False
        self._burst_s = 0.0
        while (
            self._line
            and self._busy < len(self._instances)
            and self.brief(self._line.first().samples)
            and self._burst_s < BURST_S
        ):
            jobs = self._take()
            if jobs:
                instance = self._occupy()
                done = execute(instance.session, jobs)
                self._burst_s += done.wall_s + BESIDE_S * len(jobs)
                self._finished(instance, jobs, done)
        self._pump()

    def _take(self) -> list[Job]:
        """Those of the next run; none when everybody has gone."""
        waiting: list[Job] = []
        for job in self._line:
            if job.gone():
                self.cancel(job)
            else:
                waiting.append(job)
            if len(waiting) == self.max_batch:
                break
        count = members([job.samples for job in waiting], self.max_batch) if waiting else 0
        return [self._line.take() for _ in range(count)]

    def _begin_run(self, jobs: list[Job]) -> None:
        instance = self._occupy()

        def done(result: Executed | Exception) -> None:
            if isinstance(result, Exception):  # not a run's own, those are in it
                result = Executed.failed(jobs, result)
            self._finished(instance, jobs, result)
            self._pump()

        instance.work(partial(execute, jobs=jobs), done)

    def _occupy(self) -> Instance:
        """An idle instance, busy from now on."""
        instance = next(instance for instance in self._instances if not instance.busy)
        instance.busy, instance.since = True, self._loop.time()
        self._busy += 1
        return instance

    def _release(self, instance: Instance) -> None:
        instance.busy = False
        self._busy -= 1

    def _finished(self, instance: Instance, jobs: Sequence[Job], done: Executed) -> None:
        self._release(instance)
        if done.unwell:
            self._run_s = self._share_s = _SLOW_S
        elif done.wall_s:
            share_s = done.wall_s / len(jobs)
            self._note(done.wall_s, sum(job.samples for job in jobs) if done.joining_ns else jobs[-1].samples)
            self._share_s *= _NUDGE if share_s > self._share_s else 1 / _NUDGE
        for device_s in done.plain:
            self._device.add(device_s)
        if not done.apart:
            self.max_batch = 1
        input_ns = done.joining_ns + sum(job.decoding_ns for job in jobs)
        encoding_ns = sum(
            job.deliver(outcome, done) for job, outcome in zip(jobs, done.outcomes, strict=True)
        )
        if done.infer_ns:
            self.statistics.executed(
                sum(job.samples for job in jobs), input_ns, done.infer_ns, encoding_ns + done.splitting_ns
            )

    # -- chores of the daemon: they go before the next request ----------------------------------------------------

    async def check(self, spec: WorkerSpec) -> None:
        """Golden vectors; GoldenMismatch with the numbers, TensorError when their files do not fit."""
        self._run_s = self._share_s = await self._chore(partial(measure.check, spec=spec))

    async def profile(self, golden: GoldenData, seconds: float, max_runs: int) -> list[Run]:
        """See ``measure.profile``."""
        runs = await self._chore(partial(measure.profile, golden=golden, seconds=seconds, max_runs=max_runs))
        self._run_s = self._share_s = statistics.median(run.wall_s for run in runs)
        return runs

    async def open_loop(
        self, golden: GoldenData, seconds: float, rate_hz: float, seed: int
    ) -> list[tuple[float, Run]]:
        """See ``measure.open_loop``."""
        return await self._chore(
            partial(measure.open_loop, golden=golden, seconds=seconds, rate_hz=rate_hz, seed=seed)
        )

    async def batch_times(self, spec: WorkerSpec, seconds: float, limit_s: float) -> dict[int, list[float]]:
        """See ``measure.batch_times``."""
        return await self._chore(partial(measure.batch_times, spec=spec, seconds=seconds, limit_s=limit_s))

    def close(self) -> None:
        """Free the model where it does not run: the end of the process frees the rest."""
        for instance in self._instances:
            instance.close()

    async def _chore(self, work: Callable[[Session], T]) -> T:
        future: asyncio.Future[T] = self._loop.create_future()
        self._chores.append((work, future))
        self._pump()
        return await future

    def _begin_chore(self, work: Callable[[Session], Any], future: asyncio.Future[Any]) -> None:
        instance = self._occupy()

        def done(result: Any) -> None:
            self._release(instance)
            if future.cancelled():
                pass
            elif isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
            self._pump()

        instance.work(work, done)
