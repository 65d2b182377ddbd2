"""What a budget asks of a measured candidate on the node as it is now. Pure."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from agent.types import Budget

MAX_UTILISATION = {
    "cpu": 0.7,
    "gpu": 0.7,
    "fpga": 0.8,
}  # by kind: queueing beyond it breaks the latency measured alone
# Of what a budget weighs: what is lost by answering late, wrongly (less accurately than asked for), not at all. Two
# models that are late lose less than one that is shed; one that is late loses more than one of the next lower priority
# (a fourth of the weight) that is shed for it.
LATE, WRONG, SHED = 260, 500, 1000
MOST = 239  # by which more excess makes it worse

Limit = Literal["p99", "utilisation", "accuracy", "power"]


class Check(NamedTuple):
    """One limit against one value; ``excess``: the value as a multiple of the limit (accuracy: the other way round)."""

    what: Limit
    value: float | None
    limit: float
    broken: bool
    excess: float
    note: str = ""

    @property
    def text(self) -> str:
        """For people."""
        value, limit = self.value, self.limit
        if value is None:
            return f"accuracy was not measured by the packer, {limit:g} is asked for"
        if self.what == "accuracy":
            return f"accuracy {value:.4g} {'<' if self.broken else '>='} {limit:g}"
        sign = ">" if self.broken else "<="
        if self.what == "p99":
            return f"p99 {ms(value)}{self.note} {sign} {ms(limit)}"
        if self.what == "utilisation":
            return f"utilisation {value:.1%}{self.note} {sign} {limit:.0%}"
        return f"power {value:.4g} W {sign} {limit:g} W"


def checks_of(
    budget: Budget,
    kind: str,
    p99_ms: float,
    used: float,
    accuracy: float | None,
    watts: float | None,
    note: str = "",
) -> tuple[Check, ...]:
    """Every limit, broken or not; the first is p99's. ``used``: of one worker's time; ``watts``: the model's average
    draw, None without energy: then power is not checked. ``note``: said behind the p99."""
    at_rate = f" at {budget.rate_hz:g}/s"
    checks = [
        _at_most("p99", p99_ms, budget.latency_p99_ms, note),
        _at_most("utilisation", used, MAX_UTILISATION[kind], at_rate),
    ]
    if budget.min_accuracy is not None:
        checks.append(_accuracy(accuracy, budget.min_accuracy))
    if budget.power_w is not None and watts is not None:
        checks.append(_at_most("power", watts, budget.power_w))
    return tuple(checks)


def lost_of(checks: tuple[Check, ...], credit: float = 1.0) -> int:
    """What is lost of a budget, in thousandths of its weight: nothing, or more the more a limit is exceeded.

    ``credit``: what an excess is divided by: who runs is not to move for the sake of the last percents.
    """
    if not any(check.broken for check in checks):
        return 0
    excess = max(check.excess for check in checks if check.broken)
    more = int(MOST * (1 - 1 / max(1.0, excess / credit)))
    wrong = any(check.broken and check.what == "accuracy" for check in checks)
    return (WRONG if wrong else LATE) + more


def ms(value: float) -> str:
    """Milliseconds for people."""
    return f"{value:.4g} ms" if value < 1e4 else f"{value:.0f} ms"


def _at_most(what: Limit, value: float, limit: float, note: str = "") -> Check:
    broken = not 0 <= value <= limit * (1 + 1e-9)  # so that nonsense is broken
    excess = value / limit if value >= 0 else math.inf
    return Check(what, value, limit, broken, excess, note)


def _accuracy(accuracy: float | None, wanted: float) -> Check:
    if accuracy is None:
        return Check("accuracy", None, wanted, True, math.inf)
    excess = wanted / accuracy if accuracy > 0 else math.inf
    return Check("accuracy", accuracy, wanted, not accuracy >= wanted, excess)
