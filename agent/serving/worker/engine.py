"""The loaded model of a worker: one run at a time, on the event loop when it is short, else on one thread."""

from __future__ import annotations

import asyncio
import functools
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from agent.devices.golden import compare
from agent.errors import GoldenMismatch
from agent.hal import Run, Session
from agent.serving.spec import WorkerSpec
from agent.serving.unwell import UNWELL
from agent.serving.worker.checks import GoldenData

INLINE_S = 0.005  # a thread costs ~0.2 ms per run, more than blocking the loop for a run this short
_NUDGE = 1.05
_SLOW_S = 1.0  # until shown otherwise

T = TypeVar("T")


class Engine:
    """``inline`` follows the median run time, first that of the golden or profiling runs."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._typical_s = _SLOW_S
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inference")

    @property
    def inline(self) -> bool:
        """True when ``run_now`` may be called: runs are short and none is going on."""
        return self._typical_s <= INLINE_S and not self._turn.locked()

    def run_now(self, tensors: Any) -> Run:
        """Run on the calling thread. Raises what ``Session.run`` raises."""
        try:
            run = self.session.run(tensors)
        except UNWELL:  # a device that does not answer takes its time to say so
            self._typical_s = _SLOW_S
            raise
        # A running median: robust against single slow runs, and cheap.
        self._typical_s *= _NUDGE if run.wall_s > self._typical_s else 1 / _NUDGE
        return run

    async def run(self, tensors: Any) -> Run:
        """Run on the inference thread, after those that came first."""
        return await self._in_thread(functools.partial(self.run_now, tensors))

    async def check(self, spec: WorkerSpec) -> None:
        """Golden vectors; GoldenMismatch with the numbers, TensorError when their files do not fit."""

        def work() -> None:
            golden = GoldenData(spec.golden, spec.file)
            walls = []
            for sample in range(spec.golden.count):
                run = self.session.run(golden.inputs(sample))
                walls.append(run.wall_s)
                problem = compare(run.outputs, golden.outputs(sample), spec.golden.atol, spec.golden.rtol)
                if problem:
                    raise GoldenMismatch(
                        f"{spec}: golden sample {sample + 1} of {spec.golden.count}: {problem}"
                    )
            self._typical_s = statistics.median(walls)

        await self._in_thread(work)

    async def profile(self, spec: WorkerSpec, seconds: float, max_runs: int) -> list[float]:
        """Device seconds per run over the golden inputs; at least one run."""

        def work() -> list[float]:
            golden = GoldenData(spec.golden, spec.file)
            runs: list[Run] = []
            end = time.monotonic() + seconds
            while not runs or (len(runs) < max_runs and time.monotonic() < end):
                runs.append(self.session.run(golden.inputs(len(runs) % spec.golden.count)))
            self._typical_s = statistics.median(run.wall_s for run in runs)
            return [run.device_s for run in runs]

        return await self._in_thread(work)

    def close(self) -> None:
        """Free the model, unless it runs: the end of the process frees it then."""
        if not self._turn.locked():
            self.session.close()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        async with self._turn:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
