"""A plan in words: why each model runs where it does, and why each other candidate was not taken. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from agent.placement.demand import Placed, Plan
from agent.placement.planning.candidates import in_order, short
from agent.placement.planning.figures import TIE, Figures
from agent.placement.planning.limits import LATE, SHED, WRONG
from agent.placement.planning.obstacles import NAMED, Beside, Obstacle, chosen
from agent.placement.planning.problem import Crowd, Option
from agent.placement.planning.ways import SIGMAS, Way, finite, held_w, joules_of, slowdown
from agent.placement.planning.weigh import COMPOSITE, Model, Setting
from agent.types import Verdict

LOST = " is lost: "


def in_words(setting: Setting, choice: Sequence[int], optimal: bool) -> Plan:
    """The plan that ``choice`` (an option of each model) is."""
    watts, bound = _watts(setting, choice)
    crowd, all_ = Crowd(setting.problem, choice), chosen(setting, choice)
    placed = []
    for index, model in enumerate(setting.models):
        beside = Beside(setting, all_, index, crowd.but(index))
        placed.append(_Told(setting, model, choice[index], beside, bound).placed())
    return Plan(tuple(placed), watts, bound, optimal)


def _watts(setting: Setting, choice: Sequence[int]) -> tuple[float | None, float | None]:
    """Mean and mean + 1.64 sigma at the budgets' rates."""
    rest_w = finite(setting.node.rest_w)
    ways = [model.way_of[index] for model, index in zip(setting.models, choice, strict=True)]
    if rest_w is None or any(way is not None and joules_of(way.m) is None for way in ways):
        return None, None
    mean_w, bound_w = rest_w, rest_w + SIGMAS * (finite(setting.node.rest_sigma_w) or 0.0)
    held = [0.0] * len(setting.devices)
    for model, way in zip(setting.models, ways, strict=True):
        if way is not None:
            mean_w += model.demand.budget.rate_hz * (joules_of(way.m) or 0.0)
            bound_w += way.draw_w
            held[way.device] = max(held[way.device], held_w(way.m))
    return mean_w + sum(held), bound_w + sum(held)


@dataclass(frozen=True, slots=True)
class _Told:
    """One model's part. ``bound_w``: of the node; ``obstacles``: found so far, by way."""

    setting: Setting
    model: Model
    chosen: int
    beside: Beside
    bound_w: float | None
    obstacles: dict[int, Obstacle | None] = field(default_factory=dict)

    def placed(self) -> Placed:
        model, way = self.model, self.model.way_of[self.chosen]
        name = model.demand.model
        if not model.ways:
            reason = _nowhere(model)
            return Placed(name, None, None, in_order(model.out), reason, reason, SHED)
        if way is None:
            reason = missed = _away(model) + self._shed()
        else:
            missed = self._missed(way)
            reason = _away(model) + self._reason(way, missed)
        verdicts = [
            Verdict(other.m.candidate, True, reason, other.m) if other is way
            else Verdict(other.m.candidate, False, self._why_not(other, way), other.m)
            for other in model.ways
        ]  # fmt: skip
        candidate, m = (None, None) if way is None else (way.m.candidate, way.m)
        lost = SHED if way is None else max(way.lost, LATE) if missed else 0
        return Placed(name, candidate, m, in_order([*verdicts, *model.out]), reason, missed, lost)

    # -- the chosen one ------------------------------------------------------------------------------------------

    def _missed(self, way: Way) -> str:
        """What of the budget it does not get; empty when all is met."""
        if broken := _broken(way):
            return broken
        return self.beside.wait(way) if self.model.options[self.chosen].loss else ""

    def _reason(self, way: Way, missed: str) -> str:
        if self.setting.unkept:
            return self._unkept(way, missed)
        if missed:
            return self._late(way, missed)
        return f"{self._best(way)}; {self._praise(way)}"

    def _shed(self) -> str:
        """What keeps even the closest candidate out."""
        closest = min(self.model.ways, key=lambda way: (way.lost >= WRONG, way.draw_w + held_w(way.m)))
        why = self._obstacle(closest)
        return f"shed: {self._short(closest)}: {why.text if why else 'its place is left to others'}"

    def _short(self, way: Way) -> str:
        return short(way.m.candidate, (other.m.candidate for other in self.model.ways))

    def _best(self, way: Way) -> str:
        """What decided among the feasible, and which would have been better but for the others."""
        figures = Figures(self.model, self.beside.others)
        met = [other for other in self.model.ways if not other.lost]
        barred = [(other, why) for other in met if (why := self._obstacle(other)) is not None]
        out = {id(other) for other, _ in barred}
        said = figures.decided(way, [other for other in met if id(other) not in out])
        better = [
            (figures.of(other), why.text, other)
            for other, why in barred
            if figures.of(other) < figures.of(way)
        ]
        slow = [(figures.of(other), text, other) for other in self.model.ways if (text := self._slow(other))]
        better += [item for item in slow if item[0] < figures.of(way)]
        if better:
            _, text, other = min(better, key=lambda item: item[:2])
            said += f"; {self._short(other)} ({figures.text(other)}) is out: {text}"
        return said

    def _slow(self, way: Way) -> str:
        """The limits that it breaks because its device is slower than profiled."""
        slow = slowdown(self.setting.devices[way.device])
        late = [check for check in way.checks if check.broken and check.what in ("p99", "utilisation")]
        if slow > 1 and late and all(check.excess <= slow for check in late):
            return "; ".join(check.text for check in late)
        return ""

    def _praise(self, way: Way) -> str:
        """The limits that it keeps, and what could not be checked."""
        m, node = way.m, self.setting.node
        parts = [check.text for check in way.checks]
        if m.confidence < 0.985:
            parts[0] += f" (at {m.confidence:.0%} confidence, {m.runs} runs)"
        if node.power_cap_w is not None and self.bound_w is not None:
            parts.append(f"node {self.bound_w:.4g} W <= cap {node.power_cap_w:g} W")
        if m.max_batch > 1:
            parts.append(f"up to {m.max_batch} requests in a run ({m.batch_gain or 1.0:.2g} x as many)")
        limits = [(self.model.demand.budget.power_w, "budget"), (node.power_cap_w, "node's cap")]
        power = " and ".join(f"{watts:g} W ({whose})" for watts, whose in limits if watts is not None)
        if power and joules_of(m) is None:
            parts.append(f"power could not be checked against {power}: no power meter")
        elif node.power_cap_w is not None and finite(node.rest_w) is None:
            parts.append(f"the cap {node.power_cap_w:g} W could not be checked: no power meter")
        if joules_of(m) is not None and m.energy != "measured":
            parts.append(f"energy is {m.energy}")
        return ", ".join(parts)

    def _late(self, way: Way, missed: str) -> str:
        """Why it does not get its budget, and until when."""
        model, figures = self.model, Figures(self.model, self.beside.others)
        barred = []
        for other in model.ways:
            if not other.lost and (why := self._obstacle(other)) is not None:
                barred.append((other is not way, figures.of(other), self._short(other), why))
        if barred:
            company, _, name, why = min(barred)
            if not company:
                return f"{missed} is missed {why.until}"
            if why.would:
                cap_w = self.setting.node.power_cap_w or 0.0
                return (
                    f"node's cap {cap_w:g} W: {name} would draw {why.would}; {missed} is missed {why.until}"
                )
            return f"{name} is out: {why.text}; {missed} is missed {why.until}"
        lost = sorted({verdict.reason.partition(LOST)[0] for verdict in model.out if _is_lost(verdict)})
        if lost:
            return f"{missed} is missed until {' and '.join(lost)} is back"
        slow = [text for other in model.ways if other is not way and (text := self._slow(other))]
        also = f"; {slow[0]}" if slow else ""
        return f"no candidate meets the budget; the closest is {self._short(way)}: {missed}{also}"

    def _unkept(self, way: Way, missed: str) -> str:
        node, rate_hz = self.setting.node, self.model.demand.budget.rate_hz
        rest_w, cap_w = node.rest_w or 0.0, node.power_cap_w or 0.0
        rest = f"{rest_w:.4g} W"
        if cap_w >= rest_w:
            rest = f"at most {rest_w + SIGMAS * (finite(node.rest_sigma_w) or 0.0):.4g} W (95%)"
        text = (
            f"the node's cap {cap_w:g} W is below its rest of {rest}, so nothing keeps it; "
            f"least draw, {way.draw_w + held_w(way.m):.3g} W at {rate_hz:g}/s"
        )
        return f"{text}; {missed} is missed" if missed else text

    # -- the others ----------------------------------------------------------------------------------------------

    def _why_not(self, other: Way, way: Way | None) -> str:
        why = self._obstacle(other)
        reasons = [text for text in (_broken(other), why.text if why else "") if text]
        if reasons:
            return "; ".join(reasons)
        if way is None:
            return "feasible, but its place is left to others"
        figures, name, chosen = Figures(self.model, self.beside.others), self.model.by, way.m.candidate
        here, there = figures.of(other), figures.of(way)
        more, less = figures.against(other), figures.against(way)
        if here > there * (1 + TIE):
            return f"feasible, but more {name} than {chosen}: {more} > {less}"
        if here >= there / (1 + TIE):
            return f"feasible, but tied with {chosen}: {name} {more} against {less}"
        if other.composite and not way.composite:
            return f"feasible, but several devices must save {COMPOSITE:.0%}: {more} against {less}"
        if chosen == self.model.demand.incumbent:
            return f"feasible, but {more} against {less} is not worth leaving {chosen}"
        return f"feasible, but {more} against {less} does not pay for loading it"

    def _obstacle(self, way: Way) -> Obstacle | None:
        if id(way) not in self.obstacles:
            self.obstacles[id(way)] = self.beside.obstacle(self._option_of(way), way)
        return self.obstacles[id(way)]

    def _option_of(self, way: Way) -> Option:
        """The first of a way's options: the one that is not late for company."""
        return self.model.options[next(i for i, other in enumerate(self.model.way_of) if other is way)]


def _broken(way: Way) -> str:
    return "; ".join(check.text for check in way.checks if check.broken)


def _is_lost(verdict: Verdict) -> bool:
    return verdict.measurement is not None and LOST in verdict.reason


def _away(model: Model) -> str:
    """The lost devices that the model was measured on, as the beginning of a reason."""
    return "".join(f"{reason}; " for reason in sorted({v.reason for v in model.out if _is_lost(v)}))


def _nowhere(model: Model) -> str:
    if away := _away(model):
        return f"{away}nothing else here can run it"
    return _listed(in_order(model.out))


def _listed(failures: Iterable[Verdict]) -> str:
    reasons = [f"{verdict.candidate}: {verdict.reason}" for verdict in failures]
    if not reasons:
        return "no candidate: the package has no variant for a device of this node; see `overlaid devices`"
    more = f"; and {len(reasons) - NAMED} more" if len(reasons) > NAMED else ""
    return f"no candidate could be measured: {'; '.join(reasons[:NAMED])}{more}"
