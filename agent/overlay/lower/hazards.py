"""Which earlier tasks touch the words that a task touches."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from agent.overlay.lower.tasks import Task
from agent.overlay.lower.views import Area, Space

Ordinals = list[int]  # of the last task of each queue, -1: none
MOST_UNITS = 1 << 20  # tracked in a space; larger spaces are tracked more coarsely
READ_ONLY = frozenset({Space.INPUTS})


class Hazards:
    """Word by word, the last task of each queue that wrote and that read it.

    A queue is any set of tasks that are carried out in their order; tasks are named by their number within it.
    """

    def __init__(self, sizes: Mapping[Space, int], queues: int) -> None:
        """``sizes``: words of each space that tasks write."""
        self._queues = queues
        self._grain = {space: -(-size // MOST_UNITS) or 1 for space, size in sizes.items()}
        shapes = {space: (queues, size // self._grain[space] + 2) for space, size in sizes.items()}
        self._written = {space: np.full(shape, -1, np.int32) for space, shape in shapes.items()}
        self._read = {space: np.full(shape, -1, np.int32) for space, shape in shapes.items()}

    def before(self, task: Task) -> tuple[Ordinals, Ordinals]:
        """Those whose results it reads or overwrites, and those that read what it overwrites."""
        results = [self._last(self._written, area) for area in (*task.reads, *task.writes)]
        readers = [self._last(self._read, area) for area in task.writes]
        return self._latest(results), self._latest(readers)

    def note(self, task: Task, queue: int, ordinal: int) -> None:
        """It is the next one of its queue."""
        for tracked, areas in ((self._read, task.reads), (self._written, task.writes)):
            for area in areas:
                if area.space not in READ_ONLY:
                    self._part(tracked, area)[queue] = ordinal

    def _latest(self, found: list[Ordinals]) -> Ordinals:
        return [max(its) for its in zip(*found, strict=True)] if found else [-1] * self._queues

    def _last(self, tracked: Mapping[Space, NDArray[np.int32]], area: Area) -> Ordinals:
        if area.space in READ_ONLY:
            return [-1] * self._queues
        part = self._part(tracked, area)
        last: Ordinals = (
            part.reshape(self._queues, -1).max(axis=1).tolist()
            if part.ndim == 2
            else (part.max(axis=(1, 2)).tolist())
        )
        return last

    def _part(self, tracked: Mapping[Space, NDArray[np.int32]], area: Area) -> NDArray[np.int32]:
        """A view of the words of an area: ``[queues, words]`` or ``[queues, runs, words]``."""
        array, grain = tracked[area.space], self._grain[area.space]
        if area.runs == 1 or grain > 1:
            end = area.start + (area.runs - 1) * area.step + area.words
            return array[:, area.start // grain : -(-end // grain)]
        item = array.itemsize
        return np.lib.stride_tricks.as_strided(
            array[:, area.start :],
            (self._queues, area.runs, area.words),
            (array.strides[0], area.step * item, item),
        )
