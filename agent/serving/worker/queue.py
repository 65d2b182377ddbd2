"""Requests that wait for the model: their order, how many may wait, and who is turned away on arrival. Pure."""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from agent.serving.http.messages import RequestError

MAX_WAITING = 64  # or
QUICK_S = 1.0  # of work, when that is more: clients of a model that takes 1 ms may be as many as they like
DEADLINE_S = 10.0  # of a request that sets none,
PATIENCE = 4  # or so many runs when that is longer: a model that takes 20 s is served, too
LONGEST_S = 3600.0  # that a request may set
LEAST_URGENT = 1 << 32  # what priority 0, the default, counts as: every priority that was given goes first

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pace:
    """``run_s``: typical seconds of a run; ``share_s``: of a request's part of it (less where runs answer several);
    ``instances``: runs at a time."""

    run_s: float
    share_s: float
    instances: int = 1

    def estimate_s(self, ahead: float) -> float:
        """Seconds until a request is answered that ``ahead`` others go before, a run half done being half a one."""
        return ahead * self.share_s / self.instances + self.run_s

    @property
    def places(self) -> int:
        """Requests that may wait: more would only wait for their deadline. (Who waits has a connection; their number is
        bounded, too.)"""
        rate = self.instances / self.share_s
        return max(1, min(int(DEADLINE_S * rate), max(MAX_WAITING, int(QUICK_S * rate))))

    def deadline_s(self, asked_s: float | None) -> float:
        """Seconds from its arrival within which a request is answered."""
        if asked_s is None:
            return max(DEADLINE_S, PATIENCE * self.run_s)
        return min(asked_s, LONGEST_S)


def refusal(pace: Pace, waiting: int, ahead: float, deadline_s: float) -> RequestError | None:
    """Why a request is not let in: 503 when ``waiting`` others fill the queue, 504 when the answer would be late."""
    estimate_s = pace.estimate_s(ahead)
    headers = {"Retry-After": str(max(1, math.ceil(estimate_s)))}
    if waiting >= pace.places:
        return RequestError(
            503, f"{waiting} requests wait, about {seconds(estimate_s)} of work; try again later", headers
        )
    if estimate_s > deadline_s:
        return RequestError(
            504,
            f"the answer would take about {seconds(estimate_s)}, longer than the request's deadline of "
            f"{seconds(deadline_s)}; try again later, or allow more time",
            headers,
        )
    return None


def too_late(deadline_s: float, pace: Pace, ahead: float) -> RequestError:
    """What a request gets whose deadline has passed."""
    headers = {"Retry-After": str(max(1, math.ceil(pace.estimate_s(ahead))))}
    return RequestError(504, f"not answered within the request's deadline of {seconds(deadline_s)}", headers)


def seconds(value: float) -> str:
    """A duration for people."""
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"


class Line(Generic[T]):
    """A queue by (priority, arrival); as short as it is, a sorted list does. Every item at most once."""

    def __init__(self) -> None:
        self._entries: list[tuple[int, int, T]] = []
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[T]:
        return iter([item for _, _, item in self._entries])

    def ahead(self, priority: int) -> int:
        """How many would go before a request of this priority that arrives now."""
        return bisect_right(self._entries, (_rank(priority), self._arrivals), key=lambda entry: entry[:2])

    def add(self, item: T, priority: int) -> None:
        """Behind those of the same priority; 1 is the most urgent, 0 the least."""
        insort(self._entries, (_rank(priority), self._arrivals, item), key=lambda entry: entry[:2])
        self._arrivals += 1

    def first(self) -> T:
        """The next one, which stays; IndexError when nobody waits."""
        return self._entries[0][2]

    def take(self) -> T:
        """The next one, which leaves; IndexError when nobody waits."""
        return self._entries.pop(0)[2]

    def remove(self, item: T) -> bool:
        """False when it does not wait."""
        for place, (_, _, waiting) in enumerate(self._entries):
            if waiting is item:
                del self._entries[place]
                return True
        return False


def _rank(priority: int) -> int:
    return priority or LEAST_URGENT
