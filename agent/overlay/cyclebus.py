"""The memory and the bus in time: bursts, the read port, stores, and banks that hold transfers up.

Constants are latencies of the RTL, named by module, and of the memory of the figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent.overlay.cycles import BEAT_BYTES, Fields
from agent.overlay.spec import Overlay

BURST_BEATS = 16  # bursts stay within blocks of so many beats
READ_LATENCY = 40  # memory: from a read address to its first beat
WRITE_LATENCY = 10  # memory: from the last beat of a write to its acknowledgement
MEMORY_DEPTH = 8  # memory: bursts taken and not yet answered
FIRST_BEAT = 6  # npu_store: from the start of a descriptor to its first beat

Pace = tuple[int, int, float]  # first cycle, last cycle, words by cycle


@dataclass(frozen=True, slots=True)
class Slow:
    """From ``first`` to ``last`` the datapath moves from bank to bank every other cycle. Transfers that could move in
    every cycle (a word is a beat) catch up, wait for its bank and then follow at its pace: words by cycles ``load`` and
    ``store``."""

    first: int
    last: int
    load: float
    store: float


def slow(spec: Overlay, fields: Fields, first: int, last: int) -> Slow | None:
    """What a compute descriptor that reads from ``first`` to ``last`` does to transfers, if anything."""
    code, opcodes = fields["opcode"], spec.opcodes
    if spec.lanes > BEAT_BYTES:
        return None
    reads = fields["count_e"] * fields["count_f"]
    if code == opcodes["ADD"] or (code == opcodes["POOL"] and reads == 2):
        return Slow(first, last, 0.5, 0.5 if code == opcodes["ADD"] else 1.0)
    if code == opcodes["DEPTHWISE"] and fields["stride_x"] == 2:
        rows = (fields["count_e"] - 3) // fields["stride_y"] + 1
        met = max(0, (fields["count_f"] - 1) // 2 - 2)  # outputs of a row, once the transfer has caught up
        return Slow(first, last, 1 - rows * met / reads, 1.0)
    return None


def stretched(start: int, end: int, paces: Sequence[Pace]) -> int:
    """When a transfer that would take from ``start`` to ``end`` ends at those paces (first, last, words by cycle)."""
    at, left = float(start), float(end - start)
    for first, last, pace in paces:
        if last < at:
            continue
        before = min(left, max(0.0, first - at))
        at, left = at + before, left - before
        within = min(left, (last + 1 - at) * pace)
        if left <= 0 or first > at:
            break
        at, left = at + within / pace, left - within
    return round(at + left)


class ReadPort:
    """Addresses in turn, at most eight bursts in the memory, data in the same order."""

    def __init__(self) -> None:
        self.free = 0  # when the next request can be accepted
        self.end = -1  # last beat of the latest burst
        self._ends = [-1] * MEMORY_DEPTH  # of the latest ones, the oldest at ``_oldest``
        self._oldest = 0

    def accept(self, at: int, beats: int) -> int:
        """A request at ``at`` (not before ``free``); when its last beat comes."""
        taken = max(at, self._ends[self._oldest]) + 1
        self.end = max(taken + READ_LATENCY, self.end + 1) + beats - 1
        self._ends[self._oldest] = self.end
        self._oldest = (self._oldest + 1) % MEMORY_DEPTH
        self.free = taken
        return self.end

    def delay(self, until: int) -> None:
        """The latest burst's last beat comes later."""
        self.end = self._ends[self._oldest - 1] = until


def bursts(lanes: int, fields: Fields) -> Iterator[int]:
    """The beats of each burst of a transfer."""
    each = fields["words"] * lanes // BEAT_BYTES
    first = fields["offset"] // BEAT_BYTES
    for run in range(fields["runs"]):
        left = each
        room = BURST_BEATS - (first + run * fields["region_step"] // BEAT_BYTES) % BURST_BEATS
        while left > room:
            yield room
            left -= room
            room = BURST_BEATS
        yield left


class Stores:
    """npu_store: addresses ahead, beats behind them, acknowledgements in order."""

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        self._address = self._beat = self._answer = -1  # the latest of each
        self._answers = [-1] * MEMORY_DEPTH

    def run(self, start: int, fields: Fields, paces: Sequence[Pace]) -> tuple[int, int]:
        """When its last address is taken from npu_transfer, and when it is done."""
        offered, beat = start + 1, start + FIRST_BEAT
        began = max(beat, self._beat)
        for beats in bursts(self._lanes, fields):
            taken = max(offered + 1, self._address + 1, self._answers[0] + 1)
            offered = taken
            self._address = taken
            self._beat = max(beat, self._beat + 1, taken + 1) + beats - 1
            self._answer = max(self._beat + WRITE_LATENCY, self._answer + 1)
            self._answers = [*self._answers[1:], self._answer]
        self._beat = stretched(began, self._beat, paces)
        self._answer = self._answers[-1] = max(self._answer, self._beat + WRITE_LATENCY)
        return self._address - 1, self._answer + 1
