"""Where tiles of tensors lie: ranges of rows and channel blocks, and the words that they take."""

from __future__ import annotations

import enum
import itertools
from dataclasses import dataclass

Range = tuple[int, int]  # first, one past the last


class Unplaceable(Exception):
    """A layer that the overlay cannot run; ``why`` goes into the report."""

    def __init__(self, layer: int, why: str) -> None:
        super().__init__(why)
        self.layer = layer
        self.why = why


class Space(enum.IntEnum):
    """What areas lie in; DDR regions count in words of ``lanes`` bytes like the chip's activation memory."""

    INPUTS = 1
    OUTPUTS = 2
    SCRATCH = 3
    CHIP = 4
    WEIGHTS = 5  # in rows


@dataclass(frozen=True, slots=True)
class Area:
    """``runs`` runs of ``words`` words, ``step`` apart."""

    space: Space
    start: int
    words: int
    runs: int = 1
    step: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """Rows and channel blocks of a tensor in consecutive planes. ``width``: words of a row."""

    space: Space
    base: int
    width: int
    rows: Range
    blocks: Range

    @property
    def plane(self) -> int:
        """Words from channel block to channel block."""
        return (self.rows[1] - self.rows[0]) * self.width

    def at(self, block: int, row: int) -> int:
        """Word of the first pixel of a row; rows outside are where they would be."""
        return self.base + (block - self.blocks[0]) * self.plane + (row - self.rows[0]) * self.width

    def area(self, blocks: Range, rows: Range) -> Area:
        """The words of some rows of some blocks."""
        words = (rows[1] - rows[0]) * self.width
        runs = blocks[1] - blocks[0]
        if words == self.plane:
            words, runs = words * runs, 1
        return Area(self.space, self.at(blocks[0], rows[0]), words, runs, self.plane if runs > 1 else 0)


def ceil_div(value: int, by: int) -> int:
    return -(-value // by)


def split_evenly(size: int, at_most: int) -> list[Range]:
    """0..size in the fewest parts of ``at_most``, as equal as they can be."""
    parts = ceil_div(size, at_most)
    edges = [size * part // parts for part in range(parts + 1)]
    return list(itertools.pairwise(edges))


def in_steps(whole: Range, step: int) -> list[Range]:
    """A range in parts of ``step``, the last one shorter."""
    return [(first, min(first + step, whole[1])) for first in range(whole[0], whole[1], step)]


@dataclass(frozen=True, slots=True)
class Window:
    """One axis of a sliding window: output ``i`` reads input ``i * stride - before ... + kernel`` of ``size``."""

    kernel: int
    stride: int
    before: int
    size: int

    def first(self, output: int) -> int:
        return output * self.stride - self.before

    def tallest(self, outputs: int) -> int:
        """The most inputs that so many outputs in a row read."""
        return min((outputs - 1) * self.stride + self.kernel, self.size)

    def needed(self, outputs: Range) -> Range:
        """The inputs that some outputs read (at least one, so that a window of nothing but padding is a range)."""
        low = min(max(self.first(outputs[0]), 0), self.size - 1)
        high = max(min(self.first(outputs[1] - 1) + self.kernel, self.size), low + 1)
        return low, high
