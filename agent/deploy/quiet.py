"""Whether models in service get late while others are measured beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from agent.serving.events import WorkerStatus
from agent.types import Budget

RECENT_S = 2.5  # workers report once a second


class Statuses(Protocol):
    """What is needed of the pool."""

    def status(self, model: str) -> WorkerStatus | None: ...


class Quiet:
    """Called, says that no model in service is late for what happens since this was made.

    ``budgets``: of the models in service, by name. One that was late before is no witness: it would be so anyway.
    """

    def __init__(
        self, pool: Statuses, budgets: Mapping[str, Budget], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pool, self._clock = pool, clock
        late = {model for model, budget in budgets.items() if self._late(model, budget)}
        self._budgets = {model: budget for model, budget in budgets.items() if model not in late}

    def __call__(self) -> bool:
        return not any(self._late(model, budget) for model, budget in self._budgets.items())

    def _late(self, model: str, budget: Budget) -> bool:
        status = self._pool.status(model)
        if status is None or not status.seconds:
            return False
        last = status.seconds[-1]
        if self._clock() - last.at > RECENT_S:
            return False
        return last.p99_ms is not None and last.p99_ms > budget.latency_p99_ms
