"""The tasks of a segment in the order of the layers, tile by tile."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from agent.overlay.lower.build import Value, Work
from agent.overlay.lower.homes import Homes
from agent.overlay.lower.memory import Buffer, place
from agent.overlay.lower.ops import Op, weight_rows
from agent.overlay.lower.storage import Storage
from agent.overlay.lower.tasks import Stream, Task, load_weights, tile_transfer
from agent.overlay.lower.tiling import Tiling
from agent.overlay.lower.views import Area, Range, Space, Unplaceable, View, ceil_div, in_steps, split_evenly
from agent.overlay.spec import Overlay

ALIGN = 128  # bytes: no burst crosses such a boundary
LEAST_PIXELS = 12  # of a first tile; shorter passes wait for weights


@dataclass(frozen=True, slots=True)
class Ddr:
    """Where values lie in their regions, and the bytes of each region."""

    views: Mapping[str, View]
    offsets: Mapping[str, int]
    sizes: Mapping[Space, int]


def place_in_ddr(work: Work, homes: Homes) -> Ddr:
    """Host inputs and outputs one after the other, other values that are not on the chip by when they live."""
    lanes = work.spec.lanes
    unit = ALIGN // lanes
    views: dict[str, View] = {}
    ends = {Space.INPUTS: 0, Space.OUTPUTS: 0}
    scratch: list[Buffer] = []
    for name, value in work.values.items():
        words = ceil_div(value.shape.words, unit) * unit
        space = Space.INPUTS if value.source else Space.OUTPUTS if value.leaves else None
        if space:
            views[name] = value.shape.whole(space, ends[space])
            ends[space] += words
        elif name not in homes.chip:
            scratch.append(Buffer(name, words, value.first, value.last))
    addresses, used = place(scratch)
    for name, address in addresses.items():
        views[name] = work.values[name].shape.whole(Space.SCRATCH, address)
    sizes = {**{space: end * lanes for space, end in ends.items()}, Space.SCRATCH: used * lanes}
    return Ddr(views, {name: view.base * lanes for name, view in views.items()}, sizes)


def emit(work: Work, homes: Homes, ddr: Ddr, storage: Storage) -> list[Task]:
    """Every task, in an order that gives the right result when one runs after the other. Raises Unplaceable."""
    loaded: dict[str, int] = {}
    tasks: list[Task] = []
    for index in range(len(work.ops)):
        tasks += _Layer(work, homes, ddr, storage, loaded, index).tasks()
    return tasks


class _Layer:
    """The tiles of one operation. ``loaded``: rows of host inputs that are on the chip already."""

    def __init__(
        self, work: Work, homes: Homes, ddr: Ddr, storage: Storage, loaded: dict[str, int], index: int
    ) -> None:
        self._work, self._homes, self._ddr, self._storage = work, homes, ddr, storage
        self._loaded, self._index = loaded, index
        self._op: Op = work.ops[index]
        self._tiling: Tiling = homes.tilings[index]
        self._turns = [0] * len(work.names[index])
        self._held: list[tuple[Range, Range, View] | None] = [None] * len(work.names[index])
        self._rows_of: dict[object, int] = {}
        self._kept: int | None = None
        self._deep = self._is_deep()

    @property
    def _spec(self) -> Overlay:
        return self._work.spec

    def _value(self, which: int) -> Value:
        return self._work.values[self._work.names[self._index][which]]

    def _is_deep(self) -> bool:
        """Whether the weights of one block come part by part, as the ring does not hold them all."""
        resident = self._storage.plan.resident[self._index] == self._op.shape.blocks
        return not resident and not self._op.shared and sum(self._op.parts) > self._storage.plan.ring

    def tasks(self) -> Iterator[Task]:
        op = self._op
        parts = in_steps((0, len(op.parts)), 1) if self._deep else [(0, len(op.parts))]
        rows = self._row_tiles()
        for groups in self._outer_groups():
            reload = self._deep or not self._keep(groups, len(rows))
            for tile, blocks in itertools.product(rows, groups):
                sources: list[View] = []
                for which in range(len(op.inputs)):
                    yield from self._source(which, tile, blocks, sources)
                target = self._target(tile, blocks)
                for part in parts:
                    row, loads = self._weights(tile if reload else None, blocks, part)
                    yield from loads
                    for each in op.emit(sources, target, tile, blocks, part, row):
                        yield Task(Stream.COMPUTE, each.fields, each.reads, each.writes, self._index)
                yield from self._store(target, tile, blocks)

    def _outer_groups(self) -> list[list[Range]]:
        """Groups of blocks; the row tiles run once for those of each list."""
        groups = self._storage.groups(self._index, 1 if self._deep else self._tiling.blocks)
        if self._deep or not self._tiling.words:
            return [[blocks] for blocks in groups]
        if self._tiling.rows_first:
            return [groups]
        outer = in_steps((0, self._op.shape.blocks), self._tiling.blocks)
        return [[blocks for blocks in groups if first <= blocks[0] < end] for first, end in outer]

    def _row_tiles(self) -> list[Range]:
        """Row tiles; small ones where a host input arrives or an output leaves the chip while others are computed."""
        op, height = self._op, self._op.shape.height
        most = max(1, self._spec.memory.accumulators // op.shape.width)
        if self._deep:
            if op.shape.width > self._spec.memory.accumulators:
                raise Unplaceable(
                    self._index, "its rows are too wide, and its kernel is too large, for one another"
                )
            return split_evenly(height, min(most, self._tiling.rows))
        if self._tiling.words:
            return in_steps((0, height), self._tiling.rows)
        arrives = any(
            each.source and each.first == self._index and each.name not in self._loaded
            for each in map(self._value, range(len(op.inputs)))
        )
        if arrives and height * op.shape.width > 2 * LEAST_PIXELS:
            first = min(max(ceil_div(height, 8), ceil_div(LEAST_PIXELS, op.shape.width)), most)
            rest = split_evenly(height - first, most) if height > first else []
            return [(0, first), *((low + first, high + first) for low, high in rest)]
        if self._value(-1).leaves:
            return split_evenly(height, most)
        return [(0, height)]

    def _source(self, which: int, rows: Range, blocks: Range, views: list[View]) -> Iterator[Task]:
        """The loads that an input tile needs; its view is appended to ``views``."""
        op, value = self._op, self._value(which)
        need, its = op.input_rows(rows), op.input_blocks(blocks)
        if value.name in self._homes.chip:
            view = value.shape.whole(Space.CHIP, self._homes.chip[value.name])
            views.append(view)
            if value.source:
                yield from self._arrive(value, view, need[1])
            return
        held = self._held[which]
        if held is None or held[:2] != (need, its):
            bases = self._homes.tiles[self._index][which]
            base = bases[self._turns[which] % len(bases)]
            self._turns[which] += 1
            view = View(Space.CHIP, base, value.shape.width, need, its)
            self._held[which] = held = (need, its, view)
            yield tile_transfer(self._spec, Stream.INPUTS, self._ddr.views[value.name], view, its, need)
        views.append(held[2])

    def _arrive(self, value: Value, view: View, rows: int) -> Iterator[Task]:
        done = self._loaded.get(value.name, 0)
        # Its first reader takes its rows in order; all of it must be there for those who come later.
        upto = rows if value.first == self._index else value.shape.height
        if upto > done:
            self._loaded[value.name] = upto
            span = (done, upto)
            yield tile_transfer(
                self._spec, Stream.INPUTS, self._ddr.views[value.name], view, (0, value.shape.blocks), span
            )

    def _target(self, rows: Range, blocks: Range) -> View:
        value = self._value(-1)
        if value.name in self._homes.chip:
            return value.shape.whole(Space.CHIP, self._homes.chip[value.name])
        bases = self._homes.tiles[self._index][-1]
        base = bases[self._turns[-1] % len(bases)]
        self._turns[-1] += 1
        return View(Space.CHIP, base, value.shape.width, rows, blocks)

    def _store(self, target: View, rows: Range, blocks: Range) -> Iterator[Task]:
        value = self._value(-1)
        if value.leaves or value.name not in self._homes.chip:
            ddr = self._ddr.views[value.name]
            yield tile_transfer(self._spec, Stream.STORES, ddr, target, blocks, rows)

    def _keep(self, groups: list[Range], row_tiles: int) -> bool:
        """Whether all weights of these blocks that come can stay until the last row tile; their rows are taken."""
        self._kept = None
        come = [blocks for blocks in groups if self._storage.row(self._index, blocks) is None]
        if row_tiles == 1 or not come or self._op.shared:
            return True
        rows = weight_rows(self._op, (come[0][0], come[-1][1]))
        if rows > self._storage.plan.ring:
            return False
        self._kept = self._storage.take(rows)
        return True

    def _weights(self, tile: Range | None, blocks: Range, parts: Range) -> tuple[int, list[Task]]:
        """The row where weights begin, and the LOAD that brings them unless they are there."""
        row = self._storage.row(self._index, blocks, parts[0])
        if row is not None:
            return row, []
        key = (tile, (0, 1) if self._op.shared else blocks, parts)
        if key in self._rows_of:
            return self._rows_of[key], []
        rows = self._op.parts[parts[0]] if self._deep else weight_rows(self._op, blocks)
        if self._kept is None:
            row = self._storage.take(rows)
        else:
            row, self._kept = self._kept, self._kept + rows
        self._rows_of[key] = row
        offset = self._storage.offset(self._index, blocks, parts[0])
        return row, [load_weights(self._spec, offset, Area(Space.WEIGHTS, row, rows))]
