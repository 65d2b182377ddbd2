"""What an inference took: cycles as the overlay counts them, and this side's work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from agent.overlay.regions import HostTimes


@dataclass(frozen=True, slots=True)
class Counters:
    """What a chain took, in cycles of the overlay's clock, and the 8-byte beats that it moved. See overlay.toml."""

    cycles: int
    issue_cycles: int
    wait_cycles: int
    drain_cycles: int
    weight_cycles: int
    load_cycles: int
    store_cycles: int
    read_beats: int
    write_beats: int
    descriptors: int


@dataclass(frozen=True, slots=True)
class Ended:
    """What the overlay did for one inference. ``compute_ends``: see ``hal.OverlayTransport``. ``resident_cycles``: of
    loading the weights that stay on the chip, where that was needed before."""

    counters: Counters
    compute_ends: tuple[int, ...]
    resident_cycles: int = 0


@dataclass(frozen=True, slots=True)
class SegmentRun:
    """``outputs`` as the source model holds them. ``host``: what this side's work for it took."""

    outputs: dict[str, NDArray[Any]]
    ended: Ended
    host: HostTimes

    @property
    def counters(self) -> Counters:
        return self.ended.counters

    @property
    def compute_ends(self) -> tuple[int, ...]:
        return self.ended.compute_ends
