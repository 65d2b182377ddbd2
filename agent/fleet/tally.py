"""Which numbers of a node's stream have come: what came twice is known, and what is missing shows. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

MAX_GAPS = 32  # remembered one by one; of the older ones only how much is missing

Gap = tuple[int, int]  # first and last missing number


@dataclass(frozen=True, slots=True)
class Tally:
    """``last``: the highest number; ``given_up``: missing numbers that are in no gap any more."""

    last: int = 0
    received: int = 0
    duplicates: int = 0
    gaps: tuple[Gap, ...] = ()
    given_up: int = 0

    @property
    def missing(self) -> int:
        return self.given_up + sum(high - low + 1 for low, high in self.gaps)

    def after(self, number: int) -> tuple[Tally, bool]:
        """The tally once this number has come, and whether it had not come before."""
        if number > self.last:
            gaps = (*self.gaps, (self.last + 1, number - 1)) if number > self.last + 1 else self.gaps
            return self._with(gaps, last=number), True
        for index, (low, high) in enumerate(self.gaps):
            if low <= number <= high:
                rest = tuple(gap for gap in ((low, number - 1), (number + 1, high)) if gap[0] <= gap[1])
                return self._with((*self.gaps[:index], *rest, *self.gaps[index + 1 :])), True
        return replace(self, duplicates=self.duplicates + 1), False

    def _with(self, gaps: tuple[Gap, ...], last: int | None = None) -> Tally:
        old, kept = gaps[:-MAX_GAPS], gaps[-MAX_GAPS:]
        given_up = self.given_up + sum(high - low + 1 for low, high in old)
        return Tally(self.last if last is None else last, self.received + 1, self.duplicates, kept, given_up)


def beginning(number: int, known: bool) -> Tally:
    """Before the first number that is heard of a series: of a node that was known before, all before it are missing;
    a new operator cannot know what others have had."""
    return Tally() if known else Tally(last=number - 1)


def describe(gaps: Iterable[Gap]) -> str:
    """``5, 7-9``."""
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in gaps)
