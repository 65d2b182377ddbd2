"""What is the same on every node, found out once in this process: a variant's work, and whether it computes what its
package promises."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from agent.devices.cpu import CpuDevice
from agent.devices.fpga import FPGA_BACKENDS, FpgaDevice
from agent.serving.spec import WorkerSpec
from simulator.work import Work, count_work

T = TypeVar("T")


class Truth:
    """Use from one event loop; the computing happens on threads."""

    def __init__(self) -> None:
        self._works: dict[tuple[str, str], asyncio.Future[Work]] = {}
        self._problems: dict[tuple[str, str, str], asyncio.Future[str | None]] = {}

    async def work(self, spec: WorkerSpec) -> Work:
        """One inference of the variant. Raises what ``count_work`` raises, to every node that asks."""
        key = spec.digest, spec.candidate.variant
        if key not in self._works:
            self._works[key] = _in_thread(
                lambda: count_work(spec.file.path, spec.file.format, spec.file.overlay)
            )
        return await asyncio.shield(self._works[key])

    async def problem(self, spec: WorkerSpec) -> str | None:
        """How the variant's outputs differ from its golden vectors on this machine's runtime; None when they agree.

        Raises what opening and running the model raise, and TensorError for golden files that do not fit.
        """
        key = spec.digest, spec.candidate.variant, spec.candidate.backend
        if key not in self._problems:
            self._problems[key] = _in_thread(lambda: _compare(spec))
        return await asyncio.shield(self._problems[key])


def _in_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    future = asyncio.ensure_future(asyncio.to_thread(work))
    # When everybody who waits was cancelled, nobody is left to look at its error.
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return future


def _compare(spec: WorkerSpec) -> str | None:
    from agent.devices.golden import compare
    from agent.serving.worker.checks import GoldenData

    golden = GoldenData(spec.golden, spec.file)
    on_overlay = spec.candidate.backend in (backend.name for backend in FPGA_BACKENDS)
    device = FpgaDevice(spec.candidate.device, "overlay", "functional") if on_overlay else CpuDevice()
    session = device.open(spec.file, spec.candidate.backend)
    try:
        for sample in range(spec.golden.count):
            outputs = session.run(golden.inputs(sample)).outputs
            problem = compare(outputs, golden.outputs(sample), spec.golden.atol, spec.golden.rtol)
            if problem:
                return f"golden sample {sample + 1} of {spec.golden.count}: {problem}"
        return None
    finally:
        session.close()
