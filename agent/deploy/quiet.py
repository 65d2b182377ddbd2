"""Whether models in service get late while others are measured beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from agent.serving.events import WorkerStatus
from agent.types import Budget

RECENT_S = 2.5  # workers report once a second
ALLOWED = 0.005  # of the last minutes' answers may be late: half of what a 99th percentile allows


class Statuses(Protocol):
    """What is needed of the pool."""

    def status(self, model: str) -> WorkerStatus | None: ...


class Quiet:
    """Called, says that no model in service misses its budget, or is about to, for what happens since this was made.

    ``budgets``: of the models in service, by name. Who was late before must get twice as late to be a witness,
    or as late again as is left.
    """

    def __init__(
        self, pool: Statuses, budgets: Mapping[str, Budget], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pool, self._budgets, self._clock = pool, dict(budgets), clock
        shares = {model: _late_share(pool.status(model), budget) for model, budget in budgets.items()}
        self._allowed = {
            model: max(ALLOWED, min(2 * share, (1 + share) / 2)) for model, share in shares.items()
        }

    def __call__(self) -> bool:
        return not any(self._late(model, budget) for model, budget in self._budgets.items())

    def excuse(self, model: str) -> None:
        """It is late for another reason from now on, and no witness any more."""
        self._budgets.pop(model, None)

    def _late(self, model: str, budget: Budget) -> bool:
        status = self._pool.status(model)
        if status is None or not status.seconds:
            return False
        last = status.seconds[-1]
        if self._clock() - last.at > RECENT_S or last.p99_ms is None:
            return False
        return last.p99_ms > budget.latency_p99_ms and _late_share(status, budget) > self._allowed[model]


def _late_share(status: WorkerStatus | None, budget: Budget) -> float:
    """Of the last minutes' answers."""
    if status is None or not status.histogram.total:
        return 0.0
    return status.histogram.over(budget.latency_p99_ms / 1e3) / status.histogram.total
