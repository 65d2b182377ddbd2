"""What every lowered layer offers to the planner, whatever it computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from agent.overlay.lower.views import Area, Range, Space, View

EDGE = 4095  # sizes that no coordinate reaches: no padding is read
OVERHEAD = 16  # cycles from a descriptor of depthwise, pooling or addition to the next one, about


@dataclass(frozen=True, slots=True)
class Compute:
    """A compute descriptor without its semaphores, and what it reads and writes."""

    fields: dict[str, int]
    reads: tuple[Area, ...]
    writes: tuple[Area, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """A tensor on the chip: channel blocks, rows and words of a row."""

    blocks: int
    height: int
    width: int

    @property
    def words(self) -> int:
        return self.blocks * self.height * self.width

    def whole(self, space: Space, base: int) -> View:
        return View(space, base, self.width, (0, self.height), (0, self.blocks))


class Op(Protocol):
    """A layer as the overlay runs it, in tiles: rows and channel blocks of its output.

    ``parts``: weight rows of each part of a block's weights; the parts of a block run one after the other and the last
    writes. ``shared``: one block's rows serve all blocks.
    """

    inputs: tuple[str, ...]
    shape: Shape
    parts: tuple[int, ...]
    shared: bool

    def input_rows(self, rows: Range) -> Range:
        """The rows of the inputs that rows of the output need."""
        ...

    def tallest(self, rows: int) -> int:
        """The most rows of the inputs that so many rows of the output need."""
        ...

    def input_blocks(self, blocks: Range) -> Range:
        """The channel blocks of the inputs that blocks of the output need."""
        ...

    def input_shape(self, which: int) -> Shape:
        """An input as it lies on the chip."""
        ...

    def cycles(self, rows: int, blocks: int) -> int:
        """About how long a tile computes."""
        ...

    def weights(self) -> bytes:
        """Block by block, part by part."""
        ...

    def emit(
        self, sources: Sequence[View], target: View, rows: Range, blocks: Range, parts: Range, weight_row: int
    ) -> list[Compute]:
        """The descriptors of a tile whose weights begin at ``weight_row``."""
        ...


@dataclass(frozen=True, slots=True)
class Requant:
    """How sums become outputs, as descriptor fields."""

    zero_point: int
    low: int
    high: int
    fields: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        fields = {"zero_point": self.zero_point, "act_min": self.low, "act_max": self.high}
        object.__setattr__(self, "fields", fields)


def block_rows(op: Op) -> int:
    """Weight rows of one block."""
    return sum(op.parts)


def weight_rows(op: Op, blocks: Range) -> int:
    """Weight rows of some blocks."""
    return block_rows(op) * (1 if op.shared else blocks[1] - blocks[0])


def weight_area(start: int, rows: int) -> Area:
    return Area(Space.WEIGHTS, start, rows)
