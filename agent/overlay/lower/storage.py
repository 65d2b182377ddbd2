"""Where weights lie in region 0 and in the weight memory: some stay there, the others come as they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.overlay.lower.ops import Op, block_rows
from agent.overlay.lower.views import Range, in_steps, split_evenly
from agent.overlay.spec import Overlay

CHUNK_ROWS = 512  # of a LOAD of weights, unless one block has more


@dataclass(frozen=True, slots=True)
class WeightPlan:
    """``resident[i]``: how many blocks of operation i, from the first on, have weights that stay; ``ring``: rows for
    the rest."""

    resident: tuple[int, ...]
    ring: int


def units(op: Op) -> int:
    """Blocks that have weights of their own."""
    return 0 if not op.parts else 1 if op.shared else op.shape.blocks


def plan_weights(spec: Overlay, ops: Sequence[Op]) -> list[WeightPlan]:
    """What to try: everything resident where it fits, or rings of several sizes."""
    memory = spec.memory.weight_rows
    rows = [units(op) * block_rows(op) for op in ops]
    if sum(rows) <= memory:
        return [WeightPlan(tuple(units(op) for op in ops), 0)]
    largest = max((part for op in ops for part in op.parts), default=0)
    plans = []
    for ring in (memory, memory * 3 // 4, memory // 2, memory // 4, memory // 8):
        if ring >= min(2 * largest, memory) and (ring == memory or sum(rows) < 8 * memory):
            plans.append(WeightPlan(_spread(ops, rows, memory - ring), ring))
    return plans


def _spread(ops: Sequence[Op], rows: Sequence[int], room: int) -> tuple[int, ...]:
    """Resident blocks so that what streams is spread evenly over the operations."""
    share = room / sum(rows)
    resident = []
    due = 0.0
    for op, its in zip(ops, rows, strict=True):
        due += its * share
        each = block_rows(op)
        blocks = min(units(op), int(due // each)) if each else 0
        due -= blocks * each
        resident.append(blocks)
    return tuple(resident)


class Storage:
    """Addresses of weights. ``data``: all weights, those that stay first (``resident_rows`` rows)."""

    def __init__(self, spec: Overlay, ops: Sequence[Op], streams: Sequence[bytes], plan: WeightPlan) -> None:
        self._spec, self._ops = spec, ops
        self.plan = plan
        stay, come = bytearray(), bytearray()
        self._row: list[int] = []  # in the weight memory, of the blocks that stay
        come_at: list[int] = []
        for op, stream, blocks in zip(ops, streams, plan.resident, strict=True):
            cut = blocks * block_rows(op) * spec.row_bytes
            self._row.append(len(stay) // spec.row_bytes)
            come_at.append(len(come) - cut)
            stay += stream[:cut]
            come += stream[cut:]
        self.resident_rows = len(stay) // spec.row_bytes
        self._offset = [len(stay) + at for at in come_at]
        self.data = bytes(stay + come)
        self._next = self._ring_start = spec.memory.weight_rows - plan.ring

    def row(self, index: int, blocks: Range, part: int = 0) -> int | None:
        """Where weights that stay lie; None when they do not."""
        op = self._ops[index]
        if not op.parts:
            return 0
        first = 0 if op.shared else blocks[0]
        if self.plan.resident[index] <= first:
            return None
        return self._row[index] + first * block_rows(op) + sum(op.parts[:part])

    def offset(self, index: int, blocks: Range, part: int = 0) -> int:
        """Bytes from the first weight to those of blocks that come."""
        op = self._ops[index]
        first = 0 if op.shared else blocks[0]
        return self._offset[index] + (first * block_rows(op) + sum(op.parts[:part])) * self._spec.row_bytes

    def take(self, rows: int) -> int:
        """The next free rows of the ring, over the oldest."""
        if self._next + rows > self._spec.memory.weight_rows:
            self._next = self._ring_start
        row = self._next
        self._next += rows
        return row

    def groups(self, index: int, blocks: int) -> list[Range]:
        """An operation's blocks in parts of at most ``blocks``, each with weights that stay or that one LOAD brings."""
        op, stay = self._ops[index], self.plan.resident[index]
        count = op.shape.blocks
        if op.shared or not op.parts or stay == count:
            return in_steps((0, count), blocks)
        most = max(1, min(CHUNK_ROWS, self.plan.ring // 4) // block_rows(op))
        come = split_evenly(count - stay, min(blocks, most))
        return in_steps((0, stay), blocks) + [(stay + first, stay + end) for first, end in come]
