"""A program on several samples: while the overlay computes one, this side packs the next and unpacks the one before.

    this side   pack 0  pack 1  |unpack 0  pack 2  |unpack 1  pack 3  |...
    overlay             0......'|1................'|2................'|

The order of samples is the order of answers. Nothing is shared between the two that are under way at a time: each has
a bank of the program's memory, and a walk through the steps of its own.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from agent.overlay.driver import LoadedProgram
from agent.overlay.execute import Arrays, RunPart, Walk, walk
from agent.overlay.program import Segment

Outputs = dict[str, NDArray[Any]]


@dataclass(slots=True)
class Times:
    """Seconds of several inferences. ``host_s``: wall time of this side's work; ``transfer_s``: of copying tensors,
    which is part of it; ``overlay_s``: by the overlay's clock. ``device_s``: from the first one's begin to the last
    one's end, with what ran beside each other counted once.

    The overlay's share is what its own counters say, on a simulated one as on a board; waiting for it is no work.
    """

    host_s: float = 0.0
    transfer_s: float = 0.0
    overlay_s: float = 0.0
    device_s: float = 0.0


@dataclass(slots=True)
class _Sample:
    """One on its way. ``at``: the segment whose inputs lie in its bank; None when it is through."""

    bank: int
    walk: Walk
    at: Segment | None = None
    outputs: Outputs = field(default_factory=dict)


class Overlapped:
    """Runs samples through a loaded program. For one use."""

    def __init__(self, loaded: LoadedProgram, run_part: RunPart) -> None:
        self._loaded, self._run_part = loaded, run_part
        self.times = Times()
        self._began = self._seen = 0.0  # device time: when the overlay's work began; this side's clock
        self._mark = 0.0  # wall clock

    def run(self, samples: Iterable[Arrays]) -> list[Outputs]:
        """Each sample's outputs. Raises what the steps raise; then nothing runs on the overlay any more, or
        ``abandon`` has failed and that is what is raised."""
        try:
            return self._run(deque(samples))
        except BaseException:
            self._loaded.abandon()
            raise

    def _run(self, waiting: deque[Arrays]) -> list[Outputs]:
        found: list[Outputs] = []
        running: _Sample | None = None  # on the overlay
        other: _Sample | None = None  # on this side
        self._mark = time.perf_counter()
        while running or other or waiting:
            if other is None and waiting and (running is None or self._loaded.banks > 1):
                other = self._enter(waiting.popleft(), 1 - running.bank if running else 0)
            if other is not None and other.at is None:
                found.append(other.outputs)
                other = None
                continue
            if running is not None:
                self._wait()
            if other is not None:
                self._start(other)
            running, other = other, running
            if other is not None:
                self._go_on(other)
        self._count()
        self.times.device_s = self._seen
        return found

    def _enter(self, tensors: Arrays, bank: int) -> _Sample:
        sample = _Sample(bank, walk(self._loaded.program, tensors, self._run_part))
        self._step(sample, None)
        return sample

    def _go_on(self, sample: _Sample) -> None:
        """From the end of its segment to the next one, or to the end of the program."""
        assert sample.at is not None
        outputs, host = self._loaded.read(sample.at, sample.bank)
        self.times.transfer_s += host.transfer_s
        self._step(sample, outputs)

    def _step(self, sample: _Sample, outputs: Arrays | None) -> None:
        try:
            segment, given = next(sample.walk) if outputs is None else sample.walk.send(outputs)
        except StopIteration as end:
            sample.at, sample.outputs = None, end.value
            return
        self.times.transfer_s += self._loaded.write(segment, given, sample.bank).transfer_s
        sample.at = segment

    def _start(self, sample: _Sample) -> None:
        assert sample.at is not None
        self._count()
        self._loaded.start(sample.at, sample.bank)
        self._began = self._seen
        self._mark = time.perf_counter()

    def _wait(self) -> None:
        self._count()
        seconds = self._loaded.seconds(self._loaded.wait())
        self.times.overlay_s += seconds
        self._seen = max(self._seen, self._began + seconds)
        self._mark = time.perf_counter()

    def _count(self) -> None:
        """This side has worked until now."""
        seconds = time.perf_counter() - self._mark
        self.times.host_s += seconds
        self._seen += seconds
