"""What an operator does to the fleet: publish desired states, follow them, send commands."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from agent.config import Mqtt
from agent.errors import LinkError, UsageError
from agent.fleet.connection import RETAINED_KINDS, Listener, connect, publish
from agent.fleet.follow import Goal, Outcome, outcome, timed_out
from agent.fleet.home import Home
from agent.fleet.operator import Operator
from agent.fleet.views import Event, Heard, NodeView, node_filters
from agent.link.client import MqttLink
from agent.link.messages import Command, Desired, Result, sign
from agent.link.topics import Target
from agent.trust import PrivateKey
from agent.types import DesiredModel, DesiredState
from agent.validation import explain_validation

COMMAND_VALIDITY_S = 600.0


@dataclass(frozen=True, slots=True)
class Desk:
    """What an operator works with: the folder, its site and broker, the database and the key that signs commands."""

    home: Home
    site: str
    mqtt: Mqtt
    operator: Operator
    key: PrivateKey


Change = Callable[[Target], DesiredState]


async def apply(desk: Desk, targets: Sequence[Target], change: Change) -> dict[Target, DesiredState]:
    """Store and publish a new revision for each target; returns them once the broker has acknowledged.

    The broker is asked first, so that nothing is stored while it is unreachable (LinkError).
    """
    async with connect(desk.mqtt, lambda message: message.ack()) as link:
        return await _publish_all(desk, link, targets, change)


async def _publish_all(
    desk: Desk, link: MqttLink, targets: Sequence[Target], change: Change
) -> dict[Target, DesiredState]:
    states = {target: change(target) for target in targets}
    for target, state in states.items():
        try:
            await publish(link, target.desired, sign(Desired.of(target, state), desk.key), retain=True)
        except LinkError as error:
            raise LinkError(
                f"{error}; revision {state.revision} of {target} is stored: "
                f"{desk.home.command('serve')} publishes it when the broker is back, or run this command again"
            ) from error
    return states


async def apply_and_wait(
    desk: Desk,
    targets: Sequence[Target],
    change: Change,
    model: DesiredModel,
    timeout_s: float,
    on_view: Callable[[NodeView], None],
) -> list[Outcome]:
    """As ``apply``, then follow the model until it is final on every node of the targets, or the time is up.

    ``on_view`` gets a node each time that something of it changed. UsageError when a group has no known node.
    """
    listener = Listener(desk.site, views=desk.operator.views())
    async with connect(desk.mqtt, listener.handle) as link:
        await listener.read_retained(link)
        before = {name: view.reported for name, view in listener.views.items()}
        nodes = {target: _nodes(target, listener.views) for target in targets}
        states = await _publish_all(desk, link, targets, change)
        goals = [
            Goal(node, model.name, model.version, states[target].revision)
            for target in targets
            for node in nodes[target]
        ]
        done: dict[str, Outcome] = {}
        deadline = time.monotonic() + timeout_s
        while True:
            for goal in goals:
                view = listener.views.get(goal.node, NodeView(goal.node))
                ended = outcome(goal, view, before.get(goal.node))
                on_view(view)
                if ended is not None:
                    done.setdefault(goal.node, ended)
            left = deadline - time.monotonic()
            if len(done) == len({goal.node for goal in goals}) or left <= 0:
                break
            await listener.changed(left)
    for goal in goals:
        done.setdefault(
            goal.node, timed_out(goal, listener.views.get(goal.node, NodeView(goal.node)), timeout_s)
        )
    return list(done.values())


def _nodes(target: Target, views: Mapping[str, NodeView]) -> list[str]:
    if not target.group:
        return [target.name]
    nodes = sorted(name for name, view in views.items() if target.name in view.groups)
    if not nodes:
        raise UsageError(
            f"no node of group {target.name} was ever heard, so there is nothing to wait for; leave --wait out"
        )
    return nodes


async def command(
    desk: Desk,
    node: Target,
    op: str,
    model: str | None,
    limits: Mapping[str, float],
    timeout_s: float,
    on_step: Callable[[Result], None],
) -> Result:
    """Send a signed command and return its final result. ``limits``: those fields of ``Command`` that bound ``logs``.

    LinkError when none comes within ``timeout_s``, UsageError when a limit is out of range.
    """
    listener = Listener(desk.site)
    async with connect(desk.mqtt, listener.handle) as link:
        await listener.read_retained(link, ("status",))
        now = time.time()
        sequence = desk.operator.next_sequence(desk.key.public.id)
        fields = {
            "target": str(node), "id": secrets.token_hex(8), "op": op, "sequence": sequence, "model": model,
            "issued": now, "expires": now + COMMAND_VALIDITY_S, **limits,
        }  # fmt: skip
        order = _checked(fields)
        link.subscribe(node.result(op, order.id), 1)
        await publish(link, node.command(op, order.id), sign(order, desk.key))
        heard = await _result(listener, node.name, order.id, timeout_s, on_step)
        view = listener.views.get(node.name, NodeView(node.name))
    if heard is None:
        state = "online" if view.online else "offline" if view.status else "unknown to the broker"
        raise LinkError(
            f"{node.name} gave no result of {op} {order.id} within {timeout_s:g} s (it is {state}); "
            f"it carries it out if it hears of it within {COMMAND_VALIDITY_S / 60:g} minutes: "
            f"{desk.home.command('watch')}"
        )
    desk.operator.record([heard])
    assert isinstance(heard.message, Result)
    return heard.message


def _checked(fields: dict[str, Any]) -> Command:
    try:
        return Command.model_validate(fields)
    except ValidationError as error:
        raise UsageError(explain_validation(error)) from error


async def _result(
    listener: Listener, node: str, command_id: str, timeout_s: float, on_step: Callable[[Result], None]
) -> Heard | None:
    deadline = time.monotonic() + timeout_s
    shown: Heard | None = None
    while True:
        heard = listener.results.get((node, command_id))
        if heard is not None and heard is not shown:
            assert isinstance(heard.message, Result)
            if heard.message.state.final:
                return heard
            shown = heard
            on_step(heard.message)
        left = deadline - time.monotonic()
        if left <= 0 or not await listener.changed(left):
            return None


async def look(desk: Desk) -> dict[str, NodeView]:
    """Every node as the broker's retained messages show it. LinkError when the broker is unreachable."""
    listener = Listener(desk.site)
    async with connect(desk.mqtt, listener.handle) as link:
        await listener.read_retained(link)
    return listener.views


async def watch(desk: Desk, node: str | None, on_lost: Callable[[str], None]) -> AsyncIterator[Event]:
    """Each change of a node, or of every node, beginning with what the broker's retained messages show."""
    events: asyncio.Queue[Event] = asyncio.Queue()

    def keep(event: Event) -> None:
        if node in (None, event.node):
            events.put_nowait(event)

    listener = Listener(desk.site, on_event=keep)
    async with connect(desk.mqtt, listener.handle, on_lost) as link:
        for topic in node_filters(desk.site, *RETAINED_KINDS, "result"):
            link.subscribe(topic, 0)
        while True:
            yield await events.get()
