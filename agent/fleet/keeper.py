"""Keeps the broker's retained desired states equal to the operator's database, and renews what would expire."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from agent.errors import LinkError, MessageError, OverlaidError, one_line
from agent.fleet.log import Log
from agent.fleet.operator import Operator
from agent.link.messages import Desired, open_signed, sign
from agent.link.topics import Target
from agent.mqtt import ROOT
from agent.trust import PrivateKey, keyring

Publish = Callable[[str, bytes], Awaitable[None]]


def desired_filters(site: str) -> list[str]:
    """Topic filters for the desired states of every node and group."""
    return [f"{ROOT}/{site}/+/desired", f"{ROOT}/{site}/group/+/desired"]


class Keeper:
    """``publish`` sends retained at QoS 1 and returns after the broker's acknowledgement (LinkError otherwise)."""

    def __init__(self, operator: Operator, key: PrivateKey, publish: Publish, log: Log) -> None:
        self._operator, self._key, self._publish, self._log = operator, key, publish, log
        self._keys = keyring([key.public])
        self._broker: dict[str, int] = {}

    def forget(self) -> None:
        """A new connection: what the broker holds is unknown until it says so."""
        self._broker.clear()

    def handle(self, topic: str, payload: bytes) -> None:
        """What the broker holds for a target, or has just been told by another program. Does not publish.

        A target that holds something else than the newest revision is put right by the next ``keep``, so that two
        operators who disagree cannot fill the network. Raises MessageError for a topic that names no target.
        """
        try:
            target = Target.parse(topic.removeprefix(ROOT + "/").removesuffix("/desired"))
        except ValueError as error:
            raise MessageError(str(error)) from error
        self._broker.pop(str(target), None)
        if not payload:
            return
        try:
            # Only whose it is matters here; an expired one is renewed.
            _, desired = open_signed(Desired, payload, self._keys, target, now=0.0)
        except OverlaidError as error:
            self._log(
                "foreign",
                f"{target}: somebody else's desired state is at the broker ({one_line(error)})",
                target=str(target),
            )
            return
        self._broker[str(target)] = desired.revision
        if self._operator.adopt(target, desired.state()):
            self._log(
                "adopted",
                f"{target}: the broker held revision {desired.revision}, newer than operator.db; taken over",
                target=str(target),
                revision=desired.revision,
            )

    async def keep(self) -> None:
        """Renew and publish what must be. A broker that does not acknowledge is asked again the next time."""
        for target in self._operator.targets():
            renewed = self._operator.renew(target)
            latest = renewed or self._operator.latest(target)
            if latest is None or self._broker.get(str(target), 0) >= latest.revision:
                continue
            try:
                await self._publish(target.desired, sign(Desired.of(target, latest), self._key))
            except (LinkError, asyncio.TimeoutError) as error:
                self._log("unpublished", f"{target}: revision {latest.revision} waits: {one_line(error)}")
                return
            self._broker[str(target)] = latest.revision
            self._log(
                "renewed" if renewed else "published",
                f"{target}: revision {latest.revision} {'renewed' if renewed else 'published again'}",
                target=str(target),
                revision=latest.revision,
            )
