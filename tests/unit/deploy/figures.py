"""Candidates with known figures, in the place of measuring."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from agent.deploy import placing, workers
from agent.deploy.measuring import Progress, candidates_of
from agent.deploy.resources import Resources
from agent.errors import OverlaidError, one_line
from agent.package.verify import VerifiedPackage
from agent.placement.adapting import bars
from agent.types import Budget, Candidate, Measurement, Placement, Verdict
from tests.unit.deploy.rig import StandInWorker

REST_W = 4.0
Figures = Mapping[
    str, tuple[float, float, float]
]  # by device, or variant and device: p99 in ms, J a run, W held
Found = tuple[list[Measurement], list[Verdict], list[OverlaidError]]


def measurement(
    candidate: Candidate, p99_ms: float, joules: float, holding_w: float, **more: Any
) -> Measurement:
    """Runs take half of p99."""
    return Measurement(
        candidate, 500, p99_ms / 2, p99_ms / 2, p99_ms, 0.99, 0.1, 10.0, None, joules, "simulated", holding_w, REST_W,
        **more,
    )  # fmt: skip


def short_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is tried again soon."""
    monkeypatch.setattr(bars, "FIRST_S", 0.05)


def known(monkeypatch: pytest.MonkeyPatch, figures: Figures) -> None:
    """Candidates measure, and fresh workers run, as the figures say."""
    monkeypatch.setattr(placing, "measure_all", by_the(figures))
    monkeypatch.setattr(StandInWorker, "profile", runs_of(figures))


def of(figures: Figures, candidate: Candidate) -> tuple[float, float, float]:
    return figures.get(f"{candidate.variant} {candidate.device}") or figures[candidate.device]


def runs_of(figures: Figures) -> Callable[..., Awaitable[list[float]]]:
    """``Worker.profile``: as fast as the figures say, unless the pool's ``run_s`` says otherwise."""

    async def profile(worker: StandInWorker, seconds: float, max_runs: int) -> list[float]:
        del seconds
        device = worker.spec.candidate.device
        usual_s = of(figures, worker.spec.candidate)[0] / 2e3
        return [worker.pool.run_s.get(device, usual_s)] * min(50, max_runs)

    return profile


def by_the(figures: Figures) -> Callable[..., Awaitable[Found]]:
    """``measure_all``: each candidate's worker is started and proved, its figures are those of its device."""

    async def measure_all(
        res: Resources,
        package: VerifiedPackage,
        budget: Budget,
        running: Placement | None,
        progress: Progress,
        **_: Any,
    ) -> Found:
        del budget, running
        candidates, failed = candidates_of(res, package.manifest)
        found, errors = [], []
        for candidate in candidates:
            try:
                await res.pool.stop(await workers.start_checked(res, package, candidate))
                overlay = package.manifest.variant(candidate.variant).overlay
                on_it = overlay if candidate.backend == "npu" else None
                found.append(measurement(candidate, *of(figures, candidate), overlay=on_it))
            except OverlaidError as error:
                errors.append(error)
                failed = (*failed, Verdict(candidate, False, f"{error.name}: {one_line(error)}"))
            progress(1.0)
        return found, list(failed), errors

    return measure_all
