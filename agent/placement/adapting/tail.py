"""Whether a model's answers come in time where it runs, whatever its profile says. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

MEMORY_S = 30.0
ALLOWED = 0.01  # of the answers may be late: the budget is of a 99th percentile
ENOUGH = 50.0  # answers before anything is said
SIGMAS = 4.0  # beyond what chance gives; late answers come in rows
OVER = 1.1  # times the budget's rate: what is late then is nobody's promise


@dataclass(frozen=True, slots=True)
class Tail:
    """Answers and late ones among them, fading with MEMORY_S."""

    answers: float = 0.0
    late: float = 0.0

    def counted(self, answers: int, late: int, seconds: float) -> Tail:
        """After so many in ``seconds``."""
        left = math.exp(-seconds / MEMORY_S)
        return Tail(self.answers * left + answers, self.late * left + min(late, answers))

    @property
    def broken(self) -> bool:
        """More are late than the budget allows."""
        chance = self.answers * ALLOWED
        return self.answers >= ENOUGH and self.late > chance + SIGMAS * math.sqrt(chance)

    def __str__(self) -> str:
        return f"{self.late / max(self.answers, 1.0):.1%} of its answers are late"
