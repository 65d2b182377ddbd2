"""Choose where one model runs, whatever else does. Pure: values in, a choice with every reason out."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from agent.placement.candidates import in_order
from agent.types import Budget, Candidate, Measurement, Verdict

TIE = 0.05
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


@dataclass(frozen=True, slots=True)
class Choice:
    """``candidate`` and ``measurement`` are None when nothing is feasible; ``reason`` then names the closest."""

    candidate: Candidate | None
    measurement: Measurement | None
    verdicts: tuple[Verdict, ...]
    reason: str


Checked = tuple[Measurement, list[Check]]


def choose(
    budget: Budget,
    measurements: Iterable[Measurement],
    failed: Iterable[Verdict] = (),
    power_cap_w: float | None = None,
    incumbent: Candidate | None = None,
) -> Choice:
    """The feasible candidate with the least average power, or the lowest p99 where an energy is missing.

    Feasible: accuracy, p99 bound, utilisation and average power are within the budget, and the node's draw with it is
    within the cap. Candidates within 5 % of the best are ties: the incumbent stays, else the more accurate one wins. A
    candidate in ``failed`` stays out, whatever was measured of it.
    """
    limits = Limits(budget, power_cap_w)
    failures = {verdict.candidate: verdict for verdict in failed}
    checked = _checked(limits, measurements, failures)
    feasible = [m for m, checks in checked if not any(check.broken for check in checks)]
    if not feasible:
        verdicts = [Verdict(m.candidate, False, _complaint(checks), m) for m, checks in checked]
        reason = _closest(checked) if checked else _nothing_measured(failures.values())
        return Choice(None, None, in_order([*verdicts, *failures.values()]), reason)
    cost = _cost_of(feasible, budget.rate_hz)
    best, why = _pick(feasible, cost, incumbent)
    reason = f"{why}; {_praise(limits, best)}"
    verdicts = [
        Verdict(m.candidate, True, reason, m) if m is best
        else Verdict(m.candidate, False, _complaint(checks) or _worse(m, best, cost), m)
        for m, checks in checked
    ]  # fmt: skip
    return Choice(best.candidate, best, in_order([*verdicts, *failures.values()]), reason)


def replan(
    budget: Budget,
    verdicts: Iterable[Verdict],
    power_cap_w: float | None,
    incumbent: Candidate | None,
    lost: Mapping[str, str],
) -> Choice:
    """Where a model that runs goes on, from what was measured of it before: ``choose`` without the devices in ``lost``
    (device: why).

    When nothing there is feasible the cap is kept as long as a candidate keeps it, then the accuracy; of what is left
    the one that breaks its limits least is taken, the incumbent when it is within 5 % of that. ``candidate`` is None
    only when every measured candidate's device is lost.
    """
    given = tuple(verdicts)
    known = [verdict.measurement for verdict in given if verdict.measurement is not None]
    here = [m for m in known if m.candidate.device not in lost]
    away = sorted({m.candidate.device for m in known} & set(lost))
    failed = [
        replace(verdict, chosen=False, reason=f"{verdict.candidate.device} is lost: {lost[verdict.candidate.device]}")
        if verdict.measurement is not None
        else verdict
        for verdict in given
        if verdict.measurement is None or verdict.candidate.device in away
    ]  # fmt: skip
    choice = choose(budget, here, failed, power_cap_w, incumbent)
    if choice.candidate is None and here:
        limits = Limits(budget, power_cap_w)
        best = _least_broken(_checked(limits, here, ()), incumbent)
        if drawn := choose(budget, here, failed, None, incumbent).measurement:
            until = "until the cap rises"
        elif choose(budget, known, (), power_cap_w, incumbent).candidate:
            until = f"until {' and '.join(away)} is back"
        else:
            until = ""
        choice = _in_spite(choice, limits, best, drawn, until)
    elif choice.candidate is None and away:
        choice = replace(choice, reason="nothing else here can run it")
    if away:
        choice = replace(
            choice, reason="; ".join([*(f"{name} is lost: {lost[name]}" for name in away), choice.reason])
        )
    return choice


def _least_broken(checked: Sequence[Checked], incumbent: Candidate | None) -> Measurement:
    """What ``replan`` takes of the infeasible."""

    def rank(checks: Sequence[Check]) -> tuple[bool, bool]:
        broken = {check.what for check in checks if check.broken}
        return "cap" in broken, "accuracy" in broken

    def excess(checks: Sequence[Check]) -> float:
        return max(check.excess for check in checks)

    first = min(rank(checks) for _, checks in checked)
    among = [(m, excess(checks)) for m, checks in checked if rank(checks) == first]
    least = min(value for _, value in among)
    tied = [(m, value) for m, value in among if value <= least * (1 + TIE)]
    return min(tied, key=lambda pair: (pair[0].candidate != incumbent, pair[1], str(pair[0].candidate)))[0]


def _in_spite(
    choice: Choice, limits: Limits, best: Measurement, drawn: Measurement | None, until: str
) -> Choice:
    """``choice`` with ``best`` as its candidate, which breaks limits; ``drawn``: what the cap alone keeps out."""
    broken = [check for check in checks_of(limits, best) if check.broken]
    where, missed = _short(best.candidate), "; ".join(check.text for check in broken)
    if any(check.what == "cap" for check in broken):
        reason = (
            f"no candidate keeps the node's cap {limits.power_cap_w:g} W; the closest is {where}: {missed}"
        )
    elif not until:
        reason = f"no candidate meets the budget; the closest is {where}: {missed}"
    elif drawn is None:
        reason = f"{missed} is missed {until}"
    else:
        watts = drawn_w(drawn, limits.budget.rate_hz) or 0.0
        would = f"{_short(drawn.candidate)} would draw {watts:.4g} W"
        reason = f"node's cap {limits.power_cap_w:g} W: {would}; {missed} is missed {until}"
    verdicts = (
        replace(verdict, chosen=True, reason=reason) if verdict.candidate == best.candidate else verdict
        for verdict in choice.verdicts
    )
    return Choice(best.candidate, best, in_order(verdicts), reason)


def _short(candidate: Candidate) -> str:
    return f"{candidate.variant} on {candidate.device}"


def _checked(
    limits: Limits, measurements: Iterable[Measurement], failures: Container[Candidate]
) -> list[Checked]:
    """Those that did not fail with their checks, in an order that does not depend on the input's."""
    measured = sorted(
        (m for m in measurements if m.candidate not in failures), key=lambda m: str(m.candidate)
    )
    return [(m, checks_of(limits, m)) for m in measured]


def _complaint(checks: Sequence[Check]) -> str:
    return "; ".join(check.text for check in checks if check.broken)


@dataclass(frozen=True, slots=True)
class Cost:
    """What is minimised among the feasible: ``keys`` one after another, the next where the one before ties."""

    name: str  # energy or p99
    keys: tuple[Callable[[Measurement], float], ...]
    text: Callable[[Measurement], str]  # for the winner
    short: Callable[[Measurement], str]  # against others

    def tied(self, feasible: Sequence[Measurement]) -> list[Measurement]:
        """Those within 5 % of the least."""
        tied = list(feasible)
        for key in self.keys:
            least = min(map(key, tied))
            tied = [m for m in tied if key(m) <= least * (1 + TIE)]
        return tied


def _cost_of(feasible: Sequence[Measurement], rate_hz: float) -> Cost:
    """Average power at the rate; at rate 0 what holding costs, then what a run would."""
    if any(m.joules is None for m in feasible):
        return Cost("p99", (lambda m: m.p99_ms,), lambda m: ms(m.p99_ms), lambda m: ms(m.p99_ms))

    def average(m: Measurement) -> float:
        return m.average_w(rate_hz) or 0.0

    def text(m: Measurement) -> str:
        return f"{average(m):.3g} W at {rate_hz:g}/s ({_parts(m)})"

    if rate_hz:
        return Cost("energy", (average,), text, lambda m: f"{average(m):.3g} W")
    return Cost("energy", (average, lambda m: m.joules or 0.0), text, _parts)


def _parts(m: Measurement) -> str:
    a_run = f"{(m.joules or 0.0) * 1e3:.3g} mJ a run"
    return f"{a_run}, {m.holding_w:.3g} W held" if m.holding_w else a_run


def _pick(
    feasible: Sequence[Measurement], cost: Cost, incumbent: Candidate | None
) -> tuple[Measurement, str]:
    """The winner and, in words, what decided."""
    tied = cost.tied(feasible)
    best = min(
        tied,
        key=lambda m: (
            m.candidate != incumbent,
            -(m.accuracy if m.accuracy is not None else -1.0),
            *(key(m) for key in cost.keys),
            str(m.candidate),
        ),
    )
    figure = cost.text(best)
    if len(feasible) == 1:
        return best, f"the only feasible candidate, {cost.name} {figure}"
    without = "" if cost.name == "energy" else " (not every one has an energy figure)"
    if len(tied) == 1:
        return best, f"least {cost.name}, {figure}, of {len(feasible)} feasible candidates{without}"
    tie = (
        f"{cost.name} {figure}, within {TIE:.0%} of the least of {len(feasible)} feasible candidates{without}"
    )
    if best.candidate == incumbent:
        return best, f"{tie}; kept because it runs already"
    return best, f"{tie}; preferred for accuracy, then {cost.name}"


def _praise(limits: Limits, best: Measurement) -> str:
    parts = [check.text for check in checks_of(limits, best)]
    if best.max_batch > 1:
        parts.append(f"up to {best.max_batch} requests in a run ({best.batch_gain:.2g} x as many)")
    if best.confidence < 0.985:
        parts[0] += f" (at {best.confidence:.0%} confidence, {best.runs} runs)"
    power = limits.power()
    if power and best.joules is None:
        parts.append(f"power could not be checked against {power}: no meter")
    elif best.joules is not None and best.energy != "measured":
        parts.append(f"energy is {best.energy}")
    return ", ".join(parts)


def _worse(m: Measurement, best: Measurement, cost: Cost) -> str:
    there, here = cost.short(best), cost.short(m)
    if m in cost.tied([m, best]):
        return f"feasible, but tied with {best.candidate}: {cost.name} {here} against {there}"
    return f"feasible, but more {cost.name} than {best.candidate}: {here} > {there}"


def _closest(checked: Sequence[Checked]) -> str:
    m, checks = min(
        checked, key=lambda pair: (max(check.excess for check in pair[1]), str(pair[0].candidate))
    )
    return f"no candidate meets the budget; the closest was {m.candidate}: {_complaint(checks)}"


def _nothing_measured(failures: Iterable[Verdict]) -> str:
    reasons = [f"{verdict.candidate}: {verdict.reason}" for verdict in in_order(failures)]
    if not reasons:
        return "no candidate: the package has no variant for a device of this node; see `overlaid devices`"
    more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    return f"no candidate could be measured: {'; '.join(reasons[:3])}{more}"
