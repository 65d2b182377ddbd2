"""Whether somebody in service is late, by what the workers last told."""

from __future__ import annotations

from agent.deploy.quiet import Quiet
from agent.histogram import Histogram
from agent.serving.events import WorkerStatus
from agent.serving.recent import Second
from agent.types import Budget, Candidate

BUDGET = Budget(latency_p99_ms=20.0, rate_hz=10.0)


class Pool:
    """Models by name with what their workers told last: (when, p99 in ms). ``late`` of the last minutes' thousand
    answers took 50 ms."""

    def __init__(self, late: int = 10, **told: tuple[float, float | None]) -> None:
        self.told, self.late = told, late

    def status(self, model: str) -> WorkerStatus | None:
        if model not in self.told:
            return None
        at, p99_ms = self.told[model]
        seconds = (Second(at, 9, 0, 1.0, p99_ms),)
        candidate = Candidate("v", "b", "cpu")
        minutes = Histogram()
        for number in range(1000):
            minutes.add(0.05 if number < self.late else 0.005)
        return WorkerStatus(True, 1, "1", "", candidate, 0, 9, 0, minutes, 9.0, seconds=seconds)


def test_who_gets_late_is_noticed_until_it_is_over() -> None:
    now = 100.0
    pool = Pool(late=0, digits=(99.5, 5.0), faces=(99.5, 19.0))
    quiet = Quiet(pool, {"digits": BUDGET, "faces": BUDGET, "gone": BUDGET}, lambda: now)
    assert quiet()
    pool.late, pool.told["faces"] = 10, (100.0, 21.0)
    assert not quiet()
    now = 103.0  # nothing new: nobody asks it any more
    assert quiet()
    pool.told["faces"] = (103.0, 21.0)
    assert not quiet()
    pool.told["faces"] = (104.0, 3.0)
    assert quiet()


def test_who_was_late_before_must_get_later() -> None:
    pool = Pool(late=100, digits=(99.5, 50.0))
    quiet = Quiet(pool, {"digits": BUDGET}, lambda: 100.0)
    assert quiet()
    pool.late = 190
    assert quiet()
    pool.late = 210
    assert not quiet()


def test_who_was_late_most_of_the_time_is_noticed_still() -> None:
    pool = Pool(late=600, digits=(99.5, 50.0))  # by what was measured before, maybe
    quiet = Quiet(pool, {"digits": BUDGET}, lambda: 100.0)
    pool.late = 790
    assert quiet()
    pool.late = 810
    assert not quiet()


def test_who_answered_nothing_is_not_late() -> None:
    quiet = Quiet(pool := Pool(digits=(99.5, None)), {"digits": BUDGET}, lambda: 100.0)
    assert quiet()
    pool.told["digits"] = (100.0, None)
    assert quiet()


def test_late_answers_within_the_budget_disturb_nobody() -> None:
    pool = Pool(late=0, digits=(99.5, 5.0))
    quiet = Quiet(pool, {"digits": BUDGET}, lambda: 100.0)
    pool.late, pool.told["digits"] = 4, (100.0, 50.0)
    assert quiet()  # of a thousand, ten may be late
    pool.late = 6
    assert not quiet()


def test_who_was_moved_for_the_measuring_is_no_witness_of_it() -> None:
    pool = Pool(late=10, digits=(99.5, 50.0), faces=(99.5, 5.0))
    budgets = {"digits": BUDGET, "faces": BUDGET}
    quiet = Quiet(pool, budgets, lambda: 100.0)
    pool.late = 900
    assert not quiet()
    quiet.excuse("digits")
    assert quiet() and set(budgets) == {"digits", "faces"}
    pool.told["faces"] = (100.0, 21.0)
    assert not quiet()
