"""The limits of a placement against a measurement. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from agent.types import Budget, Measurement

MAX_UTILISATION = 0.7  # of a CPU or GPU: queueing beyond it breaks the latency that was measured alone


@dataclass(frozen=True, slots=True)
class Limits:
    """The budget bounds the model's own average power, the cap that of the node with it."""

    budget: Budget
    power_cap_w: float | None

    def power(self) -> str:
        """The limits on power in words; empty without one."""
        limits = ((self.budget.power_w, "budget"), (self.power_cap_w, "node's cap"))
        return " and ".join(f"{watts:g} W ({whose})" for watts, whose in limits if watts is not None)


@dataclass(frozen=True, slots=True)
class Check:
    """One limit against one measurement; ``excess``: the measured value as a multiple of the limit."""

    what: Literal["p99", "utilisation", "accuracy", "power", "cap"]
    broken: bool
    excess: float
    text: str


def checks_of(limits: Limits, m: Measurement) -> list[Check]:
    """Every limit, broken or not; the first is p99's. Power is not checked without an energy figure."""
    budget = limits.budget
    used = budget.rate_hz * m.mean_ms / 1e3
    used_text = f"utilisation {used:.1%} at {budget.rate_hz:g}/s"
    checks = [
        _at_most("p99", m.p99_ms, budget.latency_p99_ms, f"p99 {ms(m.p99_ms)}", ms(budget.latency_p99_ms)),
        _at_most("utilisation", used, MAX_UTILISATION, used_text, f"{MAX_UTILISATION:.0%}"),
    ]
    if budget.min_accuracy is not None:
        checks.append(_accuracy(m.accuracy, budget.min_accuracy))
    watts = m.average_w(budget.rate_hz)
    if budget.power_w is not None and watts is not None:
        checks.append(
            _at_most("power", watts, budget.power_w, f"power {watts:.4g} W", f"{budget.power_w:g} W")
        )
    drawn, cap_w = drawn_w(m, budget.rate_hz), limits.power_cap_w
    if cap_w is not None and drawn is not None:
        text = f"{'power' if m.rest_w is None else 'node'} {drawn:.4g} W"
        checks.append(_at_most("cap", drawn, cap_w, text, f"cap {cap_w:g} W"))
    return checks


def drawn_w(m: Measurement, rate_hz: float) -> float | None:
    """Watts of the node with the model (of the model alone where the rest is not known); None without energy."""
    watts = m.average_w(rate_hz)
    return None if watts is None else watts + (m.rest_w or 0.0)


def ms(value: float) -> str:
    """Milliseconds for people."""
    return f"{value:.4g} ms" if value < 1e4 else f"{value:.0f} ms"


def _at_most(
    what: Literal["p99", "utilisation", "power", "cap"],
    value: float,
    limit: float,
    value_text: str,
    limit_text: str,
) -> Check:
    broken = not value <= limit  # so that NaN is broken
    excess = value / limit if limit and not math.isnan(value) else math.inf
    return Check(what, broken, excess, f"{value_text} {'>' if broken else '<='} {limit_text}")


def _accuracy(accuracy: float | None, wanted: float) -> Check:
    if accuracy is None:
        text = f"accuracy was not measured by the packer, {wanted:g} is asked for"
        return Check("accuracy", True, math.inf, text)
    broken = not accuracy >= wanted
    excess = wanted / accuracy if accuracy > 0 else math.inf
    return Check("accuracy", broken, excess, f"accuracy {accuracy:.4g} {'<' if broken else '>='} {wanted:g}")
