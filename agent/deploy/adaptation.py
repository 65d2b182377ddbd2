"""Once a second: what the models were asked, what their runs took and what the node draws becomes moves.

``placement.adapting.adapt`` decides, ``Replacer`` carries out. Nothing happens while nothing serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import replace

from agent.deploy import claims, joining
from agent.deploy.demands import demand_of, node_of, replaced
from agent.deploy.lost import LostDevices
from agent.deploy.quiet import Quiet
from agent.deploy.refining import Refining
from agent.deploy.replace import Replacer, Task
from agent.deploy.resources import Resources
from agent.deploy.sensor import Sensor
from agent.deploy.service import Service
from agent.deploy.tally import Tally
from agent.errors import DeployError, OverlaidError, one_line
from agent.placement.adapting import adapt
from agent.placement.demand import Demand, Node, Placed, Plan
from agent.placement.planning import plan
from agent.placement.planning.solve import THOROUGH
from agent.serving.events import PoolEvent
from agent.types import Budget, Candidate, OverlayRef, Placement, Verdict
from agent.waiting import to_the_end

log = logging.getLogger("deploy")
LOOK_S = 1.0
ROOM_S, ROOM_LOOK_S = 5.0, 0.1  # so long without a move under way: nobody makes room any more
RENEW_S = 10.0  # between tries to renew a worker that has seen its device get lost


class Adaptation:
    """``services`` is shared with the manager: models by name. ``measuring`` is held while candidates are measured:
    what runs and meters show then says nothing of the models in service. ``power_w``: what the node draws, None without
    a meter. ``outcome``: of the last look."""

    def __init__(
        self,
        res: Resources,
        services: MutableMapping[str, Service],
        turns: Mapping[str, asyncio.Lock],
        lost: LostDevices,
        measuring: asyncio.Lock,
        power_cap_w: Callable[[], float | None],
        power_w: Callable[[], float | None],
        on_change: Callable[[], None],
        on_idle: Callable[[], None],
    ) -> None:
        self._res, self._services, self._turns = res, services, turns
        self._lost, self._measuring = lost, measuring
        self._power_cap_w, self._power_w = power_cap_w, power_w
        self._replacer = Replacer(
            res,
            services,
            turns,
            lost,
            self._elsewhere,
            self._verify,
            self._failed,
            self._dropped,
            on_change,
            on_idle,
        )
        self._refining = Refining(res)
        self._sensor = Sensor(res)
        self._arriving: dict[str, Demand] = {}
        self._tally = Tally()
        self._state = adapt.State()
        self._missed: dict[str, bool] = {}
        self._interim: set[str] = set()  # models that go elsewhere than planned, for now
        self._renewed: dict[str, float] = {}  # monotonic s
        self._resumed = False
        self._failing = ""  # what the last look failed with
        self.outcome: adapt.Outcome | None = None

    # -- looks ---------------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """True while a model is moved, or waits for it."""
        return self._replacer.busy

    async def run(self) -> None:
        """Look once a second until cancelled. The models are restored."""
        self._resumed = True
        try:
            while True:
                await asyncio.sleep(LOOK_S)
                self.look(happened=False)
        finally:
            await self._replacer.stop()

    def resume(self) -> None:
        """The models are restored: from now on they may move."""
        self._resumed = True
        self.look()

    def look(self, happened: bool = True) -> None:
        """See where the models should be, and move them. ``happened``: something did, which reasons shall tell."""
        if not self._resumed:
            return
        demands = self._demands()
        if not demands:
            self._tally.clear()
            # By the next deployment the node may have changed.
            self._state, self.outcome = adapt.State(), None
            return
        try:
            self._look(demands, happened)
            self._failing = ""
        except Exception as error:  # a bug must not end what keeps models in service
            if self._failing != repr(error):
                log.exception("weighing where models run")
                self._res.telemetry.event("adapt-failed", f"models stay where they are: {error!r}")
            self._failing, self._state = repr(error), adapt.State()

    def _look(self, demands: tuple[Demand, ...], happened: bool) -> None:
        undisturbed = not self._measuring.locked() and not self._arriving
        power_w = self._power_w() if undisturbed else None
        seen = () if happened else self._tally.take(demands, undisturbed)  # at an event, between two looks
        look = adapt.Look(time.monotonic(), seen, power_w)
        self._state, outcome = adapt.step(self._state, demands, self._node(demands), look)
        self.outcome = outcome
        asked = undisturbed and not happened
        sensor_news = asked and self._sensor.seen(power_w, self._state.rest)
        moves = {move.model: move for move in outcome.moves}
        plan_now = {p.model: self._sensor.noted(p, self._power_cap_w()) for p in outcome.plan.placed}
        self._replacer.ask(Task(name, move, plan_now[name]) for name, move in moves.items())
        self._renew(self._lost.stale - moves.keys())
        self._interim |= {name for name, move in moves.items() if move.candidate != plan_now[name].candidate}
        for placed in plan_now.values():
            name = placed.model
            news = sensor_news or name in self._interim or self._missed.get(name) != bool(placed.missed)
            told = not happened and name in self._replacer.stuck  # why it could not leave
            if (happened or news) and name not in moves and not told and self._explain(placed):
                self._interim.discard(name)
            self._missed[name] = bool(placed.missed)

    def _renew(self, stale: set[str]) -> None:
        """Workers that have seen their device get lost, which is there again."""
        now = time.monotonic()
        for name in sorted(stale):
            service = self._services.get(name)
            there = service is not None and service.placement.candidate.device not in self._lost.why
            if there and now - self._renewed.get(name, -RENEW_S) >= RENEW_S:
                self._renewed[name] = now
                self._replacer.ask([Task(name)])

    def _explain(self, placed: Placed) -> bool:
        """Why a model is where it is and stays there, as of now; False when it is not where it should be."""
        service = self._services.get(placed.model)
        if service is None or not service.serves or placed.model in self._arriving:
            return False
        here = None if service.placement.shed else service.placement.candidate
        if placed.candidate != here:
            return False
        self._replacer.keep(placed.model, replaced(service.placement, placed, time.time()))
        return True

    def _demands(self) -> tuple[Demand, ...]:
        found = {name: demand_of(s.placement) for name, s in self._services.items() if s.serves}
        return tuple({**found, **self._arriving}.values())

    def _node(self, demands: tuple[Demand, ...]) -> Node:
        res = self._res
        return node_of(res.board, demands, self._lost.why, self._power_cap_w(), res.settings.threads)

    # -- what is seen --------------------------------------------------------------------------------------------

    def seen(self, event: PoolEvent) -> None:
        """A worker reported what it did."""
        service = self._services.get(event.model)
        if service is None or event.histogram is None:
            return
        placement = service.placement
        if self._tally.note(event, event.histogram, placement):
            slowdowns = {d.id: d.slowdown for d in self.outcome.node.devices} if self.outcome else {}
            slowdown = slowdowns.get(event.candidate.device, 1.0)
            surer = self._refining.note(placement, event.device, slowdown)
            if surer is not None:
                self._replacer.keep(event.model, surer)

    def quiet(self) -> Quiet:
        """Whether a model gets late from now on that was not before: whoever measures waits then."""
        budgets = {name: s.placement.budget for name, s in self._services.items() if s.runs}
        return Quiet(self._res.pool, budgets)

    # -- deployments ---------------------------------------------------------------------------------------------

    def claiming(
        self, model: str, budget: Budget, quiet: Quiet
    ) -> contextlib.AbstractAsyncContextManager[claims.Claim]:
        """FPGAs for a newcomer that is measured. ``quiet`` hears of who gets late by its bridge."""

        async def bridge(name: str, device: str, overlay: OverlayRef) -> None:
            work = asyncio.ensure_future(self._replacer.bridge(name, device, overlay))
            canceled = await to_the_end(work)  # half a bridge would leave a worker that nobody knows of
            error = work.exception()
            if canceled:
                raise canceled
            if error and not isinstance(error, OverlaidError):
                raise error
            if error:
                text = "%s is not bridged while %s takes %s: %s"
                topic = {"model": name, "device": device}
                log.warning(text, name, device, overlay, one_line(error), extra=topic)
            placement = self._services[name].placement
            measured = placement.measurement
            if measured is not None and measured.p99_ms > placement.budget.latency_p99_ms:
                quiet.excuse(name)

        return claims.of_newcomer(model, budget.priority, self._demands, self._turns, bridge)

    def admit(self, newcomer: Demand) -> Plan:
        """Where everybody would run with a newcomer, or a new version. Its own part says whether it may come."""
        demands, node = self.as_seen(newcomer)
        return plan.plan(demands, node, nodes=THOROUGH)

    def pushed(self, newcomer: Demand, planned: Plan) -> Placed | None:
        """A model of no lower priority that would be served worse than now with the newcomer, if there is one."""
        return joining.pushed(*self.as_seen(), newcomer, planned)

    def placed(self, model: str) -> None:
        """A deployment of the model succeeded: its worker is fresh."""
        self._lost.stale.discard(model)
        self._replacer.forget(model)

    def keep(self, model: str, placement: Placement) -> None:
        """The placement of a model in service from now on, where it runs already."""
        self._replacer.keep(model, placement)

    @contextlib.contextmanager
    def arriving(self, newcomer: Demand) -> Iterator[None]:
        """Count with a newcomer until it serves or does not come."""
        self._arriving[newcomer.model] = newcomer
        try:
            yield
        finally:
            self._arriving.pop(newcomer.model, None)

    async def make_room(self, newcomer: Demand, candidate: Candidate) -> None:
        """Wait until the others are where the newcomer, which is arriving, can run on ``candidate``; its turn is held.

        DeployError when they stay in its way.
        """
        self.look()
        idle_s = 0.0
        there = replace(newcomer, incumbent=candidate)
        while self.busy or (why := joining.in_the_way(*self.as_seen(there), newcomer.model)):
            if idle_s > ROOM_S:
                raise DeployError(f"the other models did not make room: {why}")
            await asyncio.sleep(ROOM_LOOK_S)
            idle_s = 0.0 if self.busy else idle_s + ROOM_LOOK_S
        measured = next(m for m in newcomer.measurements if m.candidate == candidate)
        await self._replacer.clear(candidate.device, measured.overlay, newcomer.model)

    def as_seen(self, *instead: Demand) -> tuple[tuple[Demand, ...], Node]:
        """Everybody, with ``instead`` in the place of their models', and the node, as of the last look."""
        outcome = self.outcome
        rates = {d.model: d.rate_hz for d in outcome.demands} if outcome else {}
        now = {d.model: replace(d, rate_hz=rates.get(d.model)) for d in self._demands()}
        demands = tuple({**now, **{d.model: d for d in instead}}.values())
        node = self._node(demands)
        if outcome is not None:
            slow = {device.id: device.slowdown for device in outcome.node.devices}
            devices = tuple(replace(d, slowdown=slow.get(d.id, 1.0)) for d in node.devices)
            node = replace(node, devices=devices)
            if outcome.node.rest_w is not None:
                node = replace(node, rest_w=outcome.node.rest_w, rest_sigma_w=outcome.node.rest_sigma_w)
        return demands, node

    @property
    def out(self) -> Mapping[str, tuple[Verdict, ...]]:
        """By model, the candidates that are out at the last look, those among them that are left alone for a while."""
        return {demand.model: demand.failed for demand in self.outcome.demands} if self.outcome else {}

    @property
    def slowdown_sigmas(self) -> Mapping[str, float]:
        """How uncertain each device's slowdown is."""
        return {device: math.sqrt(each.variance) for device, each in self._state.slowdowns.items()}

    # -- for the replacer ----------------------------------------------------------------------------------------

    def _elsewhere(self, model: str, device: str) -> Placed | None:
        demands, node = self.as_seen()
        devices = tuple(
            replace(d, lost=d.lost or "it takes another overlay") if d.id == device else d
            for d in node.devices
        )
        with contextlib.suppress(KeyError):
            return plan.plan(demands, replace(node, devices=devices)).of(model)
        return None

    def _verify(self, model: str, candidate: Candidate, z: float) -> bool:
        self._state, good = adapt.verify(self._state, model, candidate, z, time.monotonic())
        return good

    def _dropped(self, model: str) -> None:
        self._state = adapt.dropped(self._state, model)

    def _failed(self, model: str, candidate: Candidate, why: str) -> None:
        self._state = adapt.failed(self._state, model, candidate, why)
