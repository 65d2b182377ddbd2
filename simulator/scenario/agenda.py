"""What comes next: acts by their time in board seconds, those of one time in the order in which they were asked for."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable

Act = Callable[[float], None]  # is given its time


class Agenda:
    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Act]] = []
        self._turn = itertools.count()

    def add(self, time: float, act: Act) -> None:
        heapq.heappush(self._heap, (time, next(self._turn), act))

    @property
    def next_time(self) -> float:
        """Infinity when nothing is left."""
        return self._heap[0][0] if self._heap else math.inf

    def pop(self) -> tuple[float, Act]:
        time, _, act = heapq.heappop(self._heap)
        return time, act
