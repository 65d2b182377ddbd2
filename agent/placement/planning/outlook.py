"""When the choice for a model would change: thresholds found by asking the planner again and again. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from agent.placement.demand import Demand, Node, Plan
from agent.placement.planning.candidates import short
from agent.placement.planning.plan import decided
from agent.placement.planning.solve import NODES
from agent.placement.planning.ways import SIGMAS, finite
from agent.types import Candidate

MANY = 16  # models, beyond which the others are taken to stay where they are
HALVINGS = 6
NEAR = 0.01  # a threshold is known well enough
FALLING, RISING = (
    (0.8, 0.6, 0.4, 0.2, 0.05),
    (1.25, 1.6, 2.5, 5.0, 20.0),
)  # where a change is looked for first

What = Literal["cap", "rate", "latency", "slowdown", "lost"]


@dataclass(frozen=True, slots=True)
class Change:
    """The model would go to ``candidate`` (None: be shed) when ``what`` rises over (``above``) or falls below
    ``threshold``: W, requests a second, ms, or a multiple of the time profiled on ``device``; None where that is lost.
    ``text`` says so."""

    what: What
    candidate: Candidate | None
    threshold: float | None
    above: bool
    device: str
    text: str


def outlook(
    demands: Sequence[Demand], node: Node, plan: Plan, model: str, dwell_s: float = 600.0
) -> tuple[Change, ...]:
    """The nearest changes in each direction, if there are any, of the node's cap, the model's rate and latency budget,
    its device's speed, and with each device lost. About 60 plans at most: not for an event loop that must not wait.

    KeyError when the plan has no such model; empty when it has nowhere to run.
    """
    placed = plan.of(model)
    if placed.measurement is None and not any(verdict.measurement for verdict in placed.verdicts):
        return ()
    at = {one.model: one.candidate for one in plan.placed}
    settled = [
        _settled(demand, at.get(demand.model), demand.model == model, len(demands)) for demand in demands
    ]
    return tuple(_Asked(settled, node, plan, model, dwell_s).changes())


def _settled(demand: Demand, candidate: Candidate | None, asked: bool, models: int) -> Demand:
    """The demand as it is when the plan is carried out."""
    demand = replace(demand, incumbent=candidate)
    if asked or models <= MANY:
        return demand
    return replace(demand, measurements=tuple(m for m in demand.measurements if m.candidate == candidate))


class _Asked:
    """One model's prospects."""

    def __init__(self, demands: Sequence[Demand], node: Node, plan: Plan, model: str, dwell_s: float) -> None:
        self._demands, self._node, self._plan, self._model, self._dwell_s = (
            demands,
            node,
            plan,
            model,
            dwell_s,
        )
        self._now = self._ask(demands, node)
        (self._demand,) = [demand for demand in demands if demand.model == model]

    def changes(self) -> Iterator[Change]:
        yield from self._of_cap()
        yield from self._of_rate()
        yield from self._of_latency()
        yield from self._of_devices()

    def _ask(self, demands: Sequence[Demand], node: Node) -> Candidate | None:
        return decided(demands, node, self._dwell_s, NODES)[self._model]

    def _with(self, demand: Demand) -> Candidate | None:
        others = [demand if one.model == self._model else one for one in self._demands]
        return self._ask(others, self._node)

    # -- one quantity each ---------------------------------------------------------------------------------------

    def _of_cap(self) -> Iterator[Change]:
        node, rest_w, bound_w = self._node, finite(self._node.rest_w), self._plan.watts_bound
        if rest_w is None or bound_w is None:
            return
        least_w = rest_w + SIGMAS * (finite(node.rest_sigma_w) or 0.0)

        def ask(cap_w: float) -> Candidate | None:
            return self._ask(self._demands, replace(node, power_cap_w=cap_w))

        start = bound_w if node.power_cap_w is None else node.power_cap_w
        if start <= least_w:
            return
        steps = [least_w + (min(start, bound_w) - least_w) * share for share in (1.0, *FALLING)]
        if found := self._threshold(ask, start, steps):
            yield self._change("cap", found, False, "the cap falls below {:.3g} W")
        if node.power_cap_w is None:
            return
        free = self._ask(self._demands, replace(node, power_cap_w=None))
        if free != self._now:
            steps = [start * share for share in RISING]
            if found := self._threshold(ask, start, steps):
                yield self._change("cap", found, True, "the cap rises above {:.3g} W")

    def _of_rate(self) -> Iterator[Change]:
        demand = self._demand
        start = demand.budget.rate_hz if demand.rate_hz is None else demand.rate_hz

        def ask(rate_hz: float) -> Candidate | None:
            budget = replace(demand.budget, rate_hz=min(1e6, max(demand.budget.rate_hz, rate_hz)))
            return self._with(replace(demand, budget=budget, rate_hz=rate_hz))

        rising = [(start or 1.0) * share for share in RISING]
        if found := self._threshold(ask, start, rising):
            yield self._change("rate", found, True, "the rate rises above {:.3g}/s")
        if start and (found := self._threshold(ask, start, [start * share for share in FALLING])):
            yield self._change("rate", found, False, "the rate falls below {:.3g}/s")

    def _of_latency(self) -> Iterator[Change]:
        demand, start = self._demand, self._demand.budget.latency_p99_ms

        def ask(latency_ms: float) -> Candidate | None:
            budget = replace(demand.budget, latency_p99_ms=min(max(latency_ms, 0.001), 3.6e6))
            return self._with(replace(demand, budget=budget))

        if found := self._threshold(ask, start, [start * share for share in FALLING]):
            yield self._change("latency", found, False, "its latency budget falls below {:.3g} ms")
        if found := self._threshold(ask, start, [start * share for share in RISING]):
            yield self._change("latency", found, True, "its latency budget rises above {:.3g} ms")

    def _of_devices(self) -> Iterator[Change]:
        here = None if self._now is None else self._now.device
        for device in sorted(self._node.devices, key=lambda device: (device.id != here, device.id)):
            if device.lost:
                continue

            def ask(slowdown: float, of: str = device.id) -> Candidate | None:
                return self._ask(self._demands, self._with_device(of, slowdown=slowdown))

            if device.id == here:
                start = device.slowdown if 0 < device.slowdown < 1e6 else 1.0
                if found := self._threshold(ask, start, [start * share for share in RISING]):
                    text = f"{device.id} gets {{:.3g}} times slower than profiled"
                    yield self._change("slowdown", found, True, text, device.id)
            then = self._ask(self._demands, self._with_device(device.id, lost="as a thought"))
            if then != self._now:
                yield self._change("lost", (None, then), True, f"{device.id} is lost", device.id)

    def _with_device(self, name: str, slowdown: float | None = None, lost: str = "") -> Node:
        devices = tuple(
            replace(one, slowdown=one.slowdown if slowdown is None else slowdown, lost=lost)
            if one.id == name
            else one
            for one in self._node.devices
        )
        return replace(self._node, devices=devices)

    # -- thresholds ----------------------------------------------------------------------------------------------

    def _threshold(
        self, ask: Callable[[float], Candidate | None], start: float, steps: Sequence[float]
    ) -> tuple[float, Candidate | None] | None:
        """The last value from ``start`` on, along ``steps``, at which nothing changes yet, and what comes then."""
        same = start
        for step in steps:
            then = ask(step)
            if then != self._now:
                return self._between(ask, same, step, then)
            same = step
        return None

    def _between(
        self, ask: Callable[[float], Candidate | None], same: float, other: float, then: Candidate | None
    ) -> tuple[float, Candidate | None]:
        for _ in range(HALVINGS):
            if abs(other - same) <= NEAR * max(abs(same), abs(other)):
                break
            middle = (same + other) / 2
            found = ask(middle)
            if found == self._now:
                same = middle
            else:
                other, then = middle, found
        return same, then

    def _change(
        self,
        what: What,
        found: tuple[float | None, Candidate | None],
        above: bool,
        when: str,
        device: str = "",
    ) -> Change:
        threshold, candidate = found
        ways = (m.candidate for m in self._demand.measurements)
        where = "shed" if candidate is None else short(candidate, ways)
        text = f"{where} if {when if threshold is None else when.format(threshold)}"
        return Change(what, candidate, threshold, above, device, text)
