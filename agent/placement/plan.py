"""Choose where a model runs. Pure: values in, a choice with every reason out; the order of inputs does not matter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agent.types import BoardInfo, Budget, Candidate, DeviceInfo, Measurement, Verdict

MAX_UTILISATION = 0.7  # of a CPU or GPU: queueing beyond it breaks the latency that was measured alone
TIE = 0.05
NO_BACKEND = "none"


@dataclass(frozen=True, slots=True)
class VariantInfo:
    """What placement needs to know of a package's variant. ``devices``: kinds that it was made for."""

    name: str
    format: str
    precision: str
    devices: tuple[str, ...]
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class Choice:
    """``candidate`` and ``measurement`` are None when nothing is feasible; ``reason`` then names the closest."""

    candidate: Candidate | None
    measurement: Measurement | None
    verdicts: tuple[Verdict, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Limits:
    """The budget and the node's cap as one set of limits."""

    budget: Budget
    power_w: float | None
    power_from: str  # "budget" or "node's cap"


@dataclass(frozen=True, slots=True)
class Check:
    """One limit against one measurement; ``excess``: the measured value as a multiple of the limit."""

    broken: bool
    excess: float
    text: str


def candidates_for(
    variants: Sequence[VariantInfo], board: BoardInfo
) -> tuple[tuple[Candidate, ...], tuple[Verdict, ...]]:
    """Every variant on every backend that opens it, and a verdict for each variant and device without one."""
    candidates: list[Candidate] = []
    verdicts: list[Verdict] = []
    for variant in variants:
        for device in board.devices:
            backends = [b.name for b in device.backends if variant.format in b.formats]
            if backends and device.kind in variant.devices:
                candidates += [Candidate(variant.name, backend, device.id) for backend in backends]
            else:
                nowhere = Candidate(variant.name, NO_BACKEND, device.id)
                verdicts.append(Verdict(nowhere, False, _why_not(variant, device)))
    return tuple(sorted(candidates, key=str)), _in_order(verdicts)


def _why_not(variant: VariantInfo, device: DeviceInfo) -> str:
    if device.kind not in variant.devices:
        return f"made for {', '.join(variant.devices)}; {device.id} is a {device.kind}"
    there = ", ".join(f"{b.name} ({', '.join(b.formats)})" for b in device.backends) or "no runtime"
    return f"{device.id} has no runtime for {variant.format}; it has {there}"


def choose(
    budget: Budget,
    measurements: Iterable[Measurement],
    failed: Iterable[Verdict] = (),
    power_cap_w: float | None = None,
    incumbent: Candidate | None = None,
) -> Choice:
    """The feasible candidate with the least energy, or the lowest p99 where an energy is missing.

    Feasible: accuracy, p99 bound, utilisation and average power are within the budget and the node's cap. Candidates
    within 5 % of the best are ties: the incumbent stays, else the more accurate one wins. A candidate in ``failed``
    stays out, whatever was measured of it.
    """
    limits = _limits(budget, power_cap_w)
    failures = {verdict.candidate: verdict for verdict in failed}
    measured = sorted(
        (m for m in measurements if m.candidate not in failures), key=lambda m: str(m.candidate)
    )
    checked = [(m, _checks(limits, m)) for m in measured]
    feasible = [m for m, checks in checked if not any(check.broken for check in checks)]
    if not feasible:
        verdicts = [Verdict(m.candidate, False, _complaint(checks), m) for m, checks in checked]
        reason = _closest(checked) if checked else _nothing_measured(failures.values())
        return Choice(None, None, _in_order([*verdicts, *failures.values()]), reason)
    cost = _cost_of(feasible)
    best, why = _pick(feasible, cost, incumbent)
    reason = f"{why}; {_praise(limits, best)}"
    verdicts = [
        Verdict(m.candidate, True, reason, m) if m is best
        else Verdict(m.candidate, False, _complaint(checks) or _worse(m, best, cost), m)
        for m, checks in checked
    ]  # fmt: skip
    return Choice(best.candidate, best, _in_order([*verdicts, *failures.values()]), reason)


def _limits(budget: Budget, power_cap_w: float | None) -> Limits:
    if power_cap_w is not None and (budget.power_w is None or power_cap_w < budget.power_w):
        return Limits(budget, power_cap_w, "node's cap")
    return Limits(budget, budget.power_w, "budget")


def _checks(limits: Limits, m: Measurement) -> list[Check]:
    """Every limit, broken or not."""
    budget = limits.budget
    used = budget.rate_hz * m.mean_ms / 1e3
    checks = [
        _check(m.p99_ms, budget.latency_p99_ms, f"p99 {_ms(m.p99_ms)}", _ms(budget.latency_p99_ms)),
        _check(used, MAX_UTILISATION, f"utilisation {used:.1%} at {budget.rate_hz:g}/s", f"{MAX_UTILISATION:.0%}"),
    ]  # fmt: skip
    if budget.min_accuracy is not None:
        checks.append(_accuracy(m.accuracy, budget.min_accuracy))
    if limits.power_w is not None and m.joules is not None:
        watts = budget.rate_hz * m.joules
        checks.append(_check(watts, limits.power_w, f"power {watts:.4g} W", f"{limits.power_w:g} W"))
    return checks


def _check(value: float, limit: float, value_text: str, limit_text: str) -> Check:
    broken = not value <= limit  # so that NaN is broken
    excess = value / limit if limit else float("inf")
    return Check(broken, excess, f"{value_text} {'>' if broken else '<='} {limit_text}")


def _accuracy(accuracy: float | None, wanted: float) -> Check:
    if accuracy is None:
        return Check(True, float("inf"), f"accuracy was not measured by the packer, {wanted:g} is asked for")
    broken = not accuracy >= wanted
    excess = wanted / accuracy if accuracy else float("inf")
    return Check(broken, excess, f"accuracy {accuracy:.4g} {'<' if broken else '>='} {wanted:g}")


def _complaint(checks: Sequence[Check]) -> str:
    return "; ".join(check.text for check in checks if check.broken)


@dataclass(frozen=True, slots=True)
class Cost:
    """What is minimised among the feasible: ``values`` by candidate, in ``unit``."""

    name: str
    values: dict[Candidate, float]
    unit: str

    def text(self, candidate: Candidate) -> str:
        return f"{self.values[candidate]:.4g} {self.unit}"


def _cost_of(feasible: Sequence[Measurement]) -> Cost:
    joules = {m.candidate: m.joules * 1e3 for m in feasible if m.joules is not None}
    if len(joules) == len(feasible):
        return Cost("energy", joules, "mJ")
    return Cost("p99", {m.candidate: m.p99_ms for m in feasible}, "ms")


def _pick(
    feasible: Sequence[Measurement], cost: Cost, incumbent: Candidate | None
) -> tuple[Measurement, str]:
    """The winner and, in words, what decided."""
    least = min(cost.values.values())
    tied = [m for m in feasible if cost.values[m.candidate] <= least * (1 + TIE)]
    best = min(
        tied,
        key=lambda m: (
            m.candidate != incumbent,
            -(m.accuracy if m.accuracy is not None else -1.0),
            cost.values[m.candidate],
            str(m.candidate),
        ),
    )
    figure = cost.text(best.candidate)
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
    parts = [check.text for check in _checks(limits, best)]
    if best.confidence < 0.985:
        parts[0] += f" (at {best.confidence:.0%} confidence, {best.runs} runs)"
    if limits.power_w is not None and best.joules is None:
        parts.append(
            f"power could not be checked against {limits.power_w:g} W ({limits.power_from}): no meter"
        )
    elif best.joules is not None and best.energy != "measured":
        parts.append(f"energy is {best.energy}")
    return ", ".join(parts)


def _worse(m: Measurement, best: Measurement, cost: Cost) -> str:
    there, here = cost.text(best.candidate), cost.text(m.candidate)
    if cost.values[m.candidate] <= cost.values[best.candidate] * (1 + TIE):
        return f"feasible, but tied with {best.candidate}: {cost.name} {here} against {there}"
    return f"feasible, but more {cost.name} than {best.candidate}: {here} > {there}"


def _closest(checked: Sequence[tuple[Measurement, list[Check]]]) -> str:
    m, checks = min(
        checked, key=lambda pair: (max(check.excess for check in pair[1]), str(pair[0].candidate))
    )
    return f"no candidate meets the budget; the closest was {m.candidate}: {_complaint(checks)}"


def _nothing_measured(failures: Iterable[Verdict]) -> str:
    reasons = [f"{verdict.candidate}: {verdict.reason}" for verdict in _in_order(failures)]
    if not reasons:
        return "no candidate: the package has no variant for a device of this node; see `overlaid devices`"
    more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    return f"no candidate could be measured: {'; '.join(reasons[:3])}{more}"


def _in_order(verdicts: Iterable[Verdict]) -> tuple[Verdict, ...]:
    return tuple(sorted(verdicts, key=lambda verdict: (not verdict.chosen, str(verdict.candidate))))


def _ms(value: float) -> str:
    return f"{value:.4g} ms" if value < 1e4 else f"{value:.0f} ms"
