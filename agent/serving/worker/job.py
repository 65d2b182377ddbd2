"""A request on its way through the engine, and the run that answers one or several of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from agent.hal import Session
from agent.serving.unwell import UNWELL
from agent.serving.worker.batches import Tensors, join, split

Outcome = Tensors | Exception


@dataclass(slots=True, eq=False)
class Job:
    """``finish(outcome, queue_ns, infer_ns)`` is called once: with the outputs, or with what went wrong.

    ``gone()``: whether the client has hung up. ``timeout_s``: None where the client set none. ``decoding_ns``: what
    reading the request took.
    """

    tensors: Tensors
    samples: int
    finish: Callable[[Outcome, int, int], None]
    gone: Callable[[], bool]
    priority: int = 0
    timeout_s: float | None = None
    decoding_ns: int = 0
    deadline_s: float = 0.0
    arrived_ns: int = field(default_factory=time.monotonic_ns)
    timer: asyncio.TimerHandle | None = None
    settled: bool = False

    def settle(self) -> bool:
        """No outcome is wanted from now on; False when it was so already."""
        if self.settled:
            return False
        self.settled = True
        if self.timer is not None:
            self.timer.cancel()
        return True

    def deliver(self, outcome: Outcome, done: Executed | None = None) -> int:
        """Tell the outcome, unless one was told or the client has gone; the nanoseconds that took."""
        if not self.settle():
            return 0
        told_ns = time.monotonic_ns()
        if done is None:
            self.finish(outcome, told_ns - self.arrived_ns, 0)
        else:
            self.finish(outcome, max(0, done.began_ns - self.arrived_ns), done.infer_ns)
        return time.monotonic_ns() - told_ns


@dataclass(slots=True)
class Executed:
    """What a run, or the runs that took its place, brought each request. ``wall_s``: of the last one;
    ``infer_ns``: 0 when none ended well; ``apart``: False when the outputs could not be told apart. ``plain``: device
    seconds of the runs for requests of one sample each, which are like those that were profiled."""

    outcomes: list[Outcome]
    began_ns: int = 0
    joining_ns: int = 0
    infer_ns: int = 0
    splitting_ns: int = 0
    wall_s: float = 0.0
    unwell: bool = False
    apart: bool = True
    plain: list[float] = field(default_factory=list)

    @classmethod
    def failed(cls, jobs: Sequence[Job], error: Exception) -> Executed:
        """The same for everybody."""
        return cls([error] * len(jobs), began_ns=time.monotonic_ns(), unwell=isinstance(error, UNWELL))


def execute(session: Session, jobs: Sequence[Job]) -> Executed:
    """Run the requests, several together; each alone when that fails, since one of them may be the reason."""
    if len(jobs) == 1:
        return _alone(session, jobs)
    began_ns = time.monotonic_ns()
    try:
        tensors = join([job.tensors for job in jobs])
        joined_ns = time.monotonic_ns()
        run = session.run(tensors)
    except UNWELL as error:
        return Executed.failed(jobs, error)
    except Exception:
        return _alone(session, jobs)
    ran_ns = time.monotonic_ns()
    try:
        parts = split(run.outputs, [job.samples for job in jobs])
    except Exception:
        done = _alone(session, jobs)
        done.apart = False
        return done
    split_ns = time.monotonic_ns() - ran_ns
    plain = [run.device_s] if all(job.samples == 1 for job in jobs) else []
    return Executed(
        list(parts), began_ns, joined_ns - began_ns, ran_ns - joined_ns, split_ns, run.wall_s, plain=plain
    )


def _alone(session: Session, jobs: Sequence[Job]) -> Executed:
    done = Executed([], began_ns=time.monotonic_ns())
    for job in jobs:
        try:
            run = session.run(job.tensors)
        except UNWELL as error:  # so would the others' runs end
            done.outcomes += [_bare(error)] * (len(jobs) - len(done.outcomes))
            done.unwell = True
            break
        except Exception as error:
            done.outcomes.append(_bare(error))
        else:
            done.outcomes.append(run.outputs)
            done.wall_s = run.wall_s
            if job.samples == 1:
                done.plain.append(run.device_s)
            done.infer_ns = time.monotonic_ns() - done.began_ns
    return done


def _bare(error: Exception) -> Exception:
    """Without tracebacks: their frames hold the request's tensors and, in a circle, the outcomes."""
    errors: list[BaseException | None] = [error]
    while errors:
        one = errors.pop()
        if one is not None and one.__traceback__ is not None:
            one.__traceback__ = None
            errors += [one.__cause__, one.__context__]
    return error
