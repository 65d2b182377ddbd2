"""Which bindings run, and the connection to the broker that they share.

It is a connection of its own, with a clean session, and exists only while a binding runs: what sensors send never
stands before a desired state or a command, and what was sent while the node was away is not made up for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from agent.app.bindings.client import ModelClient
from agent.app.bindings.lane import Lane
from agent.bindings import describe_cycle, find_cycle
from agent.link.backoff import Backoff
from agent.link.client import MAX_PAYLOAD_BYTES, Message, MqttLink, MqttSettings
from agent.mqtt import covers, matches
from agent.types import Binding, BindingStatus
from agent.waiting import set_within

log = logging.getLogger("bindings")
LOOK_S = 2.0  # without news: whether a model is served is also to be seen without being told


class Bindings:
    """``wanted()``: the node's bindings; ``socket(model)``: a served model's socket, else None; ``tell(text, model)``
    hears what is worth an event, ``changed()`` that a status did."""

    def __init__(
        self,
        settings: MqttSettings,
        wanted: Callable[[], Sequence[Binding]],
        socket: Callable[[str], Path | None],
        tell: Callable[[str, str], None],
        changed: Callable[[], None],
        backoff: Backoff | None = None,
    ) -> None:
        self._settings, self._wanted, self._socket = settings, wanted, socket
        self._tell, self._report, self._backoff = tell, changed, backoff
        self._again = asyncio.Event()
        self._order: tuple[Binding, ...] = ()
        self._idle: dict[Binding, BindingStatus] = {}
        self._lanes: dict[Binding, tuple[Lane, asyncio.Task[None]]] = {}
        self._link: MqttLink | None = None
        self._subscribed: dict[str, int] = {}
        self._granted: dict[str, bool] = {}
        self._problem = ""

    def look(self) -> None:
        """The desired state, or what is served, may have changed."""
        self._again.set()

    def statuses(self) -> tuple[BindingStatus, ...]:
        """Every binding, in the order of the desired state."""
        return tuple(self._status(binding) for binding in self._order)

    async def run(self) -> None:
        """Keep to what is wanted, until cancelled."""
        try:
            while True:
                self._again.clear()
                await self._keep_to(self._wanted())
                await set_within(self._again, LOOK_S)
        finally:
            await self._keep_to(())

    def _status(self, binding: Binding) -> BindingStatus:
        if binding in self._idle:
            return self._idle[binding]
        status = self._lanes[binding][0].status()
        problem = self._problem or self._deafness(binding.input_topic)
        return replace(status, state="WAITING", why=problem) if problem else status

    def _deafness(self, topic: str) -> str:
        """Why no messages can come over the connection; empty when they can."""
        granted = next((self._granted.get(each) for each in self._subscribed if covers(each, topic)), None)
        if granted is None:
            return "the broker has not confirmed the subscription yet"
        return "" if granted else f"the broker refused the subscription to {topic}; check its access list"

    async def _keep_to(self, wanted: Sequence[Binding]) -> None:
        idle = _idle(wanted, self._socket)
        for binding, status in idle.items():
            before = self._idle.get(binding)
            if before is None or before.why != status.why:
                self._tell(f"{binding}: {status.state}: {status.why}", binding.model)
        running = [binding for binding in wanted if binding not in idle]
        news = idle != self._idle or set(running) != set(self._lanes)
        self._order, self._idle = (), idle
        await self._end([binding for binding in self._lanes if binding not in running])
        fresh = [binding for binding in running if binding not in self._lanes]
        for binding in fresh:
            self._begin(binding)
        self._order = tuple(wanted)
        await self._keep_link([binding.input_topic for binding in fresh])
        if news:
            self._report()

    def _begin(self, binding: Binding) -> None:
        client = ModelClient(lambda: self._socket(binding.model), MAX_PAYLOAD_BYTES)
        lane = Lane(binding, client, self._publish, lambda text: self._tell(text, binding.model))
        self._lanes[binding] = lane, asyncio.get_running_loop().create_task(lane.run())
        log.info("binding %s: runs", binding, extra={"model": binding.model})

    async def _end(self, bindings: Sequence[Binding]) -> None:
        tasks = [self._lanes.pop(binding)[1] for binding in bindings]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_link(self, fresh: Sequence[str]) -> None:
        """Have a connection while there are lanes, and the subscriptions that they need; ``fresh``: inputs of new ones,
        which need retained messages although the subscription may be an old one."""
        if self._lanes and self._link is None:
            self._problem = f"no connection to {self._settings.where} yet"
            self._link = MqttLink(
                self._settings,
                on_message=self._deliver,
                on_connect=lambda: self._connection(""),
                on_disconnect=self._connection,
                on_subscribed=self._confirmed,
                backoff=self._backoff,
            )
            self._link.start()
        if self._link is None:
            return
        needed = subscriptions(self._lanes)
        for topic, qos in needed.items():
            if self._subscribed.get(topic) != qos or any(covers(topic, each) for each in fresh):
                self._link.subscribe(topic, qos)
        for topic in set(self._subscribed) - set(needed):
            self._link.unsubscribe(topic)
            self._granted.pop(topic, None)
        self._subscribed = needed
        if not self._lanes:
            link, self._link, self._problem = self._link, None, ""
            self._granted.clear()
            await link.stop()

    def _connection(self, problem: str) -> None:
        self._granted.clear()
        if problem != self._problem:
            self._problem = problem
            self._report()

    def _confirmed(self, topic: str, granted: bool) -> None:
        if self._granted.get(topic) != granted:
            self._granted[topic] = granted
            self._report()

    def _deliver(self, message: Message) -> None:
        message.ack()
        for lane, _ in self._lanes.values():
            if matches(lane.binding.input_topic, message.topic):
                lane.offer(message)

    def _publish(self, topic: str, payload: bytes, qos: int) -> asyncio.Future[None]:
        assert self._link is not None  # lanes end before it does
        return self._link.publish(topic, payload, qos)


def subscriptions(bindings: Sequence[Binding] | Mapping[Binding, object]) -> dict[str, int]:
    """Topic filters and their QoS that bring every message once: none of them lies within another."""
    topics = {binding.input_topic for binding in bindings}
    widest = [
        topic for topic in topics if not any(covers(other, topic) for other in topics if other != topic)
    ]
    return {
        topic: max(binding.qos for binding in bindings if covers(topic, binding.input_topic))
        for topic in sorted(widest)
    }


def _idle(wanted: Sequence[Binding], socket: Callable[[str], Path | None]) -> dict[Binding, BindingStatus]:
    """The bindings that cannot run now, and why."""
    found = {}
    left = list(wanted)
    while cycle := find_cycle(
        left
    ):  # each state was refused if it had one; merged with another it may have one
        for binding in cycle:
            found[binding] = BindingStatus(binding, "REFUSED", describe_cycle(cycle))
            left.remove(binding)
    for binding in left:
        if socket(binding.model) is None:
            why = f"no model {binding.model} is in service here"
            found[binding] = BindingStatus(binding, "WAITING", why)
    return found
