"""Profiles of models in service get surer by what their workers tell."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from agent.deploy.resources import Resources
from agent.errors import StoreError
from agent.histogram import Histogram
from agent.placement.profile import Profile
from agent.placement.profile.cache import Key
from agent.placement.profile.refine import BLOCK_RUNS, as_expected, at_profiled_speed, refined
from agent.types import Measurement, Placement

log = logging.getLogger("deploy")
REFINE_S = 600.0  # between two refinements of a model: each is written to the disk
MAX_RUNS = 100_000  # that are counted for one


@dataclass(slots=True)
class _Served:
    """Runs of one placement since its last refinement. ``block``: the newest, not yet told from a disturbance."""

    measurement: Measurement
    since: float
    counted: Histogram = field(default_factory=Histogram)
    block: Histogram = field(default_factory=Histogram)


class Refining:
    """``clock``: monotonic seconds."""

    def __init__(self, res: Resources, clock: Callable[[], float] = time.monotonic) -> None:
        self._res, self._clock = res, clock
        self._served: dict[str, _Served] = {}

    def note(self, placement: Placement, device: Histogram, slowdown: float) -> Placement | None:
        """The placement's worker did these runs, on a device so much slower than profiled. The placement as it is from
        now on, when that is another: kept with the model's profiles already."""
        measured, now = placement.measurement, self._clock()
        if measured is None or measured.max_batch > 1:  # runs for several requests take longer
            return None
        served = self._served.get(placement.model)
        if served is None or served.measurement != measured:
            served = self._served[placement.model] = _Served(measured, now)
        served.block.merge(device.counts)
        served.block.seconds += device.seconds
        if served.block.total >= BLOCK_RUNS:
            if as_expected(served.block, measured, slowdown) and served.counted.total < MAX_RUNS:
                served.counted.merge(at_profiled_speed(served.block, slowdown).counts)
            served.block = Histogram()
        if 0 <= now - served.since < REFINE_S:
            return None
        del self._served[placement.model]
        return self._refined(placement, measured, served.counted)

    def _refined(self, placement: Placement, measured: Measurement, counted: Histogram) -> Placement | None:
        board = self._res.board_now
        if board != self._res.board:  # in which power mode it was measured is not known
            return None
        key = Key.of(placement.digest, placement.candidate, board, self._res.settings.threads)
        try:
            kept = dict(self._res.journal.profiles.of(placement.model)).get(key)
        except StoreError as error:
            log.warning(
                "%s: its profile is not refined: %s", placement.model, error, extra={"model": placement.model}
            )
            return None
        known = kept or Profile(measured)
        closed = refined(known.closed, counted)
        if closed is known.closed:
            return None
        found = replace(known, closed=closed)
        log.info(
            "%s: p99 on %s is %.4g ms, by %d runs",
            placement.model,
            placement.candidate,
            closed.p99_ms,
            closed.runs,
            extra={"model": placement.model, "device": placement.candidate.device},
        )
        try:
            self._res.journal.profiles.keep(placement.model, key, found)
        except StoreError as error:
            topic = {"model": placement.model, "device": placement.candidate.device}
            log.warning("the profile of %s is not kept: %s", placement.candidate, error, extra=topic)
        known_now = found.measurement
        now = replace(measured, p99_ms=known_now.p99_ms, confidence=known_now.confidence, runs=known_now.runs)
        verdicts = tuple(
            replace(verdict, measurement=now) if verdict.measurement == measured else verdict
            for verdict in placement.verdicts
        )
        return replace(placement, verdicts=verdicts)
