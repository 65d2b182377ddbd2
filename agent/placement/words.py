"""A plan in words: why each model runs where it does, and each candidate was not taken. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from agent.placement.candidates import in_order
from agent.placement.demand import Placed, Plan
from agent.placement.limits import MAX_UTILISATION, ms
from agent.placement.problem import Option, Taken
from agent.placement.ways import SIGMAS, Model, Setting, Way, finite, held_w, joules_of
from agent.types import Candidate, Verdict

TIE = 0.05
NAMED = 3  # models or candidates that a sentence lists


class Obstacle(NamedTuple):
    """What keeps an option out. ``cap``: the node's cap does."""

    text: str
    cap: bool = False


def in_words(setting: Setting, choice: Sequence[int], optimal: bool) -> Plan:
    """The plan that ``choice`` (an option of each model) is."""
    watts, bound = _watts(setting, choice)
    scene = _Scene(setting, tuple(choice), bound)
    placed = tuple(scene.placed(index) for index in range(len(setting.models)))
    return Plan(placed, watts, bound, optimal)


def _watts(setting: Setting, choice: Sequence[int]) -> tuple[float | None, float | None]:
    rest_w = finite(setting.node.rest_w)
    if rest_w is None:
        return None, None
    mean = bound = 0.0
    held = [0.0] * len(setting.devices)
    for model, index in zip(setting.models, choice, strict=True):
        way = model.way_of[index]
        if way is None:
            continue
        joules = joules_of(way.m)
        if joules is None:
            return None, None
        mean += model.demand.budget.rate_hz * joules
        bound += way.draw_w
        held[way.device] = max(held[way.device], held_w(way.m))
    rest_bound = rest_w + SIGMAS * (finite(setting.node.rest_sigma_w) or 0.0)
    return rest_w + mean + sum(held), rest_bound + bound + sum(held)


@dataclass(frozen=True, slots=True)
class _Scene:
    setting: Setting
    choice: tuple[int, ...]
    bound_w: float | None

    def placed(self, index: int) -> Placed:
        model = self.setting.models[index]
        way = model.way_of[self.choice[index]]
        if not model.ways:
            reason = _nowhere(model)
            return Placed(model.demand.model, None, None, in_order(model.out), reason, reason)
        others = self._others(index)
        reason, missed = self._why(index, model, way, others)
        verdicts = [
            Verdict(other.m.candidate, True, reason, other.m) if other is way
            else Verdict(other.m.candidate, False, self._why_not(index, model, other, way, others), other.m)
            for other in model.ways
        ]  # fmt: skip
        candidate, m = (None, None) if way is None else (way.m.candidate, way.m)
        return Placed(model.demand.model, candidate, m, in_order([*verdicts, *model.out]), reason, missed)

    def _others(self, but: int) -> Taken:
        taken = Taken(self.setting.problem)
        for index, model in enumerate(self.setting.models):
            if index != but:
                taken.take(model.options[self.choice[index]])
        return taken

    # -- one model -----------------------------------------------------------------------------------------------

    def _why(self, index: int, model: Model, way: Way | None, others: Taken) -> tuple[str, str]:
        """The reason, and what of the budget is missed."""
        away = _away(model)
        if way is None:
            closest = min(model.ways, key=lambda w: (w.lost, str(w.m.candidate)))
            why = self._obstacle(index, _option_of(model, closest), closest, others)
            reason = f"{away}shed: {_short(closest.m.candidate)}: {why.text if why else 'nothing fits'}"
            return reason, reason
        option = model.options[self.choice[index]]
        missed = "; ".join(check.text for check in way.checks if check.broken)
        if not missed and option.loss and not way.lost:
            missed = self._wait(index, way)
        if self.setting.unkept:
            return f"{away}{self._unkept(model, way, missed)}", missed
        if missed:
            return f"{away}{self._missing(index, model, way, missed, others)}", missed
        return f"{away}{self._best(index, model, way, others)}; {self._praise(model, way)}", ""

    def _best(self, index: int, model: Model, way: Way, others: Taken) -> str:
        """What decided among the feasible."""
        free: list[Way] = []
        barred: list[tuple[Way, Obstacle]] = []
        for other in model.ways:
            if not other.lost:
                why = self._obstacle(index, _option_of(model, other), other, others)
                if why is None:
                    free.append(other)
                else:
                    barred.append((other, why))
        figures = {id(other): self._figure(model, other, others) for other in free}
        figures[id(way)] = mine = self._figure(model, way, others)
        name = "p99" if model.by_time else "energy"
        text = _figure_text(model, way, mine)
        without = " (not every one has an energy figure)" if model.by_time else ""
        least = min(figures.values())
        if len(free) == 1:
            said = f"the only feasible candidate, {name} {text}"
        elif mine == least and sum(f <= least * (1 + TIE) for f in figures.values()) == 1:
            said = f"least {name}, {text}, of {len(free)} feasible candidates{without}"
        elif mine <= least * (1 + TIE):
            tie = f"{name} {text}, within {TIE:.0%} of the least of {len(free)} feasible candidates{without}"
            kept = way.m.candidate == model.demand.incumbent
            said = (
                f"{tie}; {'kept because it runs already' if kept else f'preferred for accuracy, then {name}'}"
            )
        else:
            said = f"{name} {text}, kept because it runs already: moving would cost more than it saves"
        cheaper = [
            (self._figure(model, other, others), why.text, other)
            for other, why in barred
            if self._figure(model, other, others) < mine
        ]
        if cheaper:
            figure, why_text, other = min(cheaper, key=lambda item: item[:2])
            said += f"; {_short(other.m.candidate)} ({_plain(model, figure)}) is out: {why_text}"
        return said

    def _praise(self, model: Model, way: Way) -> str:
        m, node = way.m, self.setting.node
        parts = [check.text for check in way.checks]
        if m.confidence < 0.985:
            parts[0] += f" (at {m.confidence:.0%} confidence, {m.runs} runs)"
        if node.power_cap_w is not None and self.bound_w is not None:
            parts.append(f"node {self.bound_w:.4g} W <= cap {node.power_cap_w:g} W")
        if m.max_batch > 1:
            parts.append(f"up to {m.max_batch} requests in a run ({m.batch_gain or 1.0:.2g} x as many)")
        limits = [(model.demand.budget.power_w, "budget"), (node.power_cap_w, "node's cap")]
        power = " and ".join(f"{watts:g} W ({whose})" for watts, whose in limits if watts is not None)
        if power and joules_of(m) is None:
            parts.append(f"power could not be checked against {power}: no meter")
        elif node.power_cap_w is not None and finite(node.rest_w) is None:
            parts.append(
                f"the cap {node.power_cap_w:g} W could not be weighed: no meter shows what the node draws"
            )
        if joules_of(m) is not None and m.energy != "measured":
            parts.append(f"energy is {m.energy}")
        return ", ".join(parts)

    def _missing(self, index: int, model: Model, way: Way, missed: str, others: Taken) -> str:
        where = _short(way.m.candidate)
        met = [other for other in model.ways if not other.lost]
        for other in met:
            why = self._obstacle(index, _option_of(model, other), other, others)
            if why is None:
                continue
            if why.cap:
                cap_w = self.setting.node.power_cap_w
                return (
                    f"node's cap {cap_w:g} W: {_short(other.m.candidate)}: {why.text}; "
                    f"{missed} is missed until the cap rises"
                )
            return f"{_short(other.m.candidate)} is out: {why.text}; {missed} is missed"
        lost = sorted({verdict.candidate.device for verdict in model.out if _is_lost(verdict)})
        if lost and not met:
            return f"{missed} is missed until {' and '.join(lost)} is back"
        return f"no candidate meets the budget; the closest is {where}: {missed}"

    def _unkept(self, model: Model, way: Way, missed: str) -> str:
        node = self.setting.node
        text = (
            f"the node's cap {node.power_cap_w:g} W is below its rest of {node.rest_w:.4g} W, so nothing can keep it; "
            f"least draw, {way.draw_w + held_w(way.m):.3g} W at {model.demand.budget.rate_hz:g}/s"
        )
        return f"{text}; {missed} is missed" if missed else text

    # -- one candidate -------------------------------------------------------------------------------------------

    def _why_not(self, index: int, model: Model, other: Way, way: Way | None, others: Taken) -> str:
        broken = "; ".join(check.text for check in other.checks if check.broken)
        why = self._obstacle(index, _option_of(model, other), other, others)
        if broken or why:
            return "; ".join(part for part in (broken, why.text if why else "") if part)
        if way is None:
            return "feasible, but shed for the others' sake"
        here, there = self._figure(model, other, others), self._figure(model, way, others)
        name = "p99" if model.by_time else "energy"
        chosen = way.m.candidate
        less, more = _short_figure(model, way, there), _short_figure(model, other, here)
        if here > there * (1 + TIE):
            return f"feasible, but more {name} than {chosen}: {more} > {less}"
        if here >= there / (1 + TIE):
            return f"feasible, but tied with {chosen}: {name} {more} against {less}"
        return f"feasible, but {more} against {less} is not worth leaving {chosen}"

    def _figure(self, model: Model, way: Way, others: Taken) -> float:
        """What is compared: p99 in ms, or watts with the holding that the others do not pay already."""
        if model.by_time:
            return _p99_ms(way)
        joules = joules_of(way.m) or 0.0
        return (model.rate_hz or 1e-4) * joules + max(0.0, held_w(way.m) - others.hold_cost[way.device])

    def _obstacle(self, index: int, option: Option, way: Way, others: Taken) -> Obstacle | None:
        """What the others leave no room for; None when it fits."""
        if others.fits(option):
            return None
        setting = self.setting
        devices, count = setting.devices, len(setting.devices)
        if option.overlay is not None and others.overlay[option.overlay[0]] not in (None, option.overlay[1]):
            device = option.overlay[0]
            there = [(n, w) for n, w in self._on(device, index) if w.m.overlay not in (None, way.m.overlay)]
            names = _names(name for name, _ in there)
            return Obstacle(f"{devices[device].id} holds {there[0][1].m.overlay} for {names}")
        for resource, amount in option.uses:
            capacity = setting.problem.capacity[resource]
            if amount <= others.left[resource]:
                continue
            used = capacity - others.left[resource] + amount
            if resource < count:
                names = _names(name for name, _ in self._on(resource, index))
                limit = MAX_UTILISATION[devices[resource].kind]
                return Obstacle(f"{devices[resource].id} would be used {used:.1%} > {limit:.0%} with {names}")
            if resource < 2 * count:
                names = _names(name for name, _ in self._on(resource - count, index))
                where = devices[resource - count].id
                return Obstacle(f"{where} would need {used:.4g} MB > {capacity:g} MB with {names}")
        for device, makes, bears in option.waits:
            if others.longest[device] > bears:
                return Obstacle(self._wait(index, way))
            if makes > others.shortest[device]:
                names = _names(name for name, w in self._on(device, index) if w.bears_s < makes)
                return Obstacle(
                    f"its runs of {ms(makes * 1e3)} on {devices[device].id} would make {names} late"
                )
        return Obstacle(self._over_cap(index, way, others), cap=True)

    def _over_cap(self, index: int, way: Way, others: Taken) -> str:
        problem, node = self.setting.problem, self.setting.node
        power = problem.power if problem.power is not None else 0
        more_w = way.draw_w + max(0.0, held_w(way.m) - others.hold_w[way.device])
        cap_w = node.power_cap_w or 0.0
        would_w = cap_w - others.left[power] + more_w
        draws = []
        for i, model in enumerate(self.setting.models):
            other = model.way_of[self.choice[i]]
            if i != index and other is not None:
                draws.append((-(other.draw_w + held_w(other.m)), model.demand.model))
        beside = _names(f"{name} ({-watts:.3g} W)" for watts, name in sorted(draws) if watts)
        return f"node {would_w:.4g} W > cap {cap_w:g} W" + (f" with {beside}" if beside else "")

    def _wait(self, index: int, way: Way) -> str:
        """The wait for others' runs that makes it late."""
        worst = (0.0, "", "")
        for device, _ in way.waits:
            for name, other in self._on(device, index):
                run_s = max((s for d, s in other.waits if d == device), default=0.0)
                worst = max(worst, (run_s, name, self.setting.devices[device].id))
        run_s, name, where = worst
        p99, limit = way.checks[0].value or 0.0, way.checks[0].limit
        return f"p99 {ms(p99 + run_s * 1e3)} > {ms(limit)} with a wait of {ms(run_s * 1e3)} for {name} on {where}"

    def _on(self, device: int, but: int) -> list[tuple[str, Way]]:
        """Models that use the device."""
        found = []
        for index, model in enumerate(self.setting.models):
            way = model.way_of[self.choice[index]]
            if index != but and way is not None and device in _devices(way, len(self.setting.devices)):
                found.append((model.demand.model, way))
        return found


def _devices(way: Way, count: int) -> set[int]:
    return {way.device, *(resource for resource, _ in way.uses if resource < count)}


def _option_of(model: Model, way: Way) -> Option:
    """The first of a way's options: the one that nobody's company makes late."""
    return model.options[next(i for i, other in enumerate(model.way_of) if other is way)]


def _p99_ms(way: Way) -> float:
    return way.checks[0].value or 0.0


def _figure_text(model: Model, way: Way, figure: float) -> str:
    """For the winner."""
    return ms(figure) if model.by_time else f"{figure:.3g} W at {model.rate_hz:g}/s ({_parts(way)})"


def _short_figure(model: Model, way: Way, figure: float) -> str:
    """Against others; without requests a run is told apart by its energy."""
    if model.by_time or model.rate_hz:
        return _plain(model, figure)
    return _parts(way)


def _plain(model: Model, figure: float) -> str:
    return ms(figure) if model.by_time else f"{figure:.3g} W"


def _parts(way: Way) -> str:
    a_run = f"{(joules_of(way.m) or 0.0) * 1e3:.3g} mJ a run"
    return f"{a_run}, {held_w(way.m):.3g} W held" if held_w(way.m) else a_run


def _short(candidate: Candidate) -> str:
    return f"{candidate.variant} on {candidate.device}"


def _is_lost(verdict: Verdict) -> bool:
    return verdict.measurement is not None and " is lost: " in verdict.reason


def _away(model: Model) -> str:
    """The lost devices that the model was measured on, as the beginning of a reason."""
    reasons = sorted({verdict.reason for verdict in model.out if _is_lost(verdict)})
    return "".join(f"{reason}; " for reason in reasons)


def _nowhere(model: Model) -> str:
    away = _away(model)
    if away:
        return f"{away}nothing else here can run it"
    reasons = [f"{verdict.candidate}: {verdict.reason}" for verdict in in_order(model.out)]
    if not reasons:
        return "no candidate: the package has no variant for a device of this node; see `overlaid devices`"
    more = f"; and {len(reasons) - NAMED} more" if len(reasons) > NAMED else ""
    return f"no candidate could be measured: {'; '.join(reasons[:NAMED])}{more}"


def _names(names: Iterable[str]) -> str:
    listed = list(names)
    more = [f"{len(listed) - NAMED} more"] if len(listed) > NAMED else []
    listed = [*listed[:NAMED], *more]
    return " and ".join(filter(None, [", ".join(listed[:-1]), *listed[-1:]]))
