"""Keeping the broker's desired states equal to the database, without a broker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import LinkError, MessageError
from agent.fleet.desired import Content, issue, with_power_cap
from agent.fleet.keeper import Keeper
from agent.fleet.operator import Operator
from agent.link.messages import Desired, open_signed, sign
from agent.link.topics import Target
from agent.trust import PrivateKey, keyring
from agent.types import DesiredState

NODE, GROUP = Target("lab", "cam-7"), Target("lab", "cameras", group=True)
KEY = PrivateKey.generate()
DAY = 86_400.0


class Bench:
    """A keeper with its database, and a broker that is a dictionary."""

    def __init__(self, folder: Path) -> None:
        self.now = 1_700_000_000.0
        self.operator = Operator(folder / "operator.db", clock=lambda: self.now)
        self.retained: dict[str, bytes] = {}
        self.published = 0
        self.acknowledges = True
        self.events: list[str] = []
        self.keeper = Keeper(self.operator, KEY, self._publish, self._log)

    def _log(self, event: str, text: str, **data: object) -> None:
        self.events.append(event)

    async def _publish(self, topic: str, payload: bytes) -> None:
        if not self.acknowledges:
            raise LinkError("no acknowledgement")
        self.retained[topic] = payload
        self.published += 1

    def revise(self, target: Target, watts: float) -> DesiredState:
        return self.operator.revise(target, lambda content: with_power_cap(content, watts))

    def reconnect(self) -> None:
        self.keeper.forget()
        for topic, payload in self.retained.items():
            self.keeper.handle(topic, payload)

    def keep(self) -> None:
        asyncio.run(self.keeper.keep())

    def held(self, target: Target) -> DesiredState:
        payload = self.retained[target.desired]
        _, desired = open_signed(Desired, payload, keyring([KEY.public]), target, self.now)
        return desired.state()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.operator.close()


def test_the_newest_revisions_are_published_once_signed_and_addressed(bench: Bench) -> None:
    bench.revise(NODE, 2.0)
    newest = bench.revise(NODE, 3.0)
    group = bench.revise(GROUP, 9.0)
    bench.keep()
    bench.keep()
    assert (bench.held(NODE), bench.held(GROUP)) == (newest, group)
    assert bench.published == 2


def test_what_the_broker_lost_or_has_in_an_older_form_is_published_again(bench: Bench) -> None:
    bench.revise(NODE, 2.0)
    bench.revise(GROUP, 9.0)
    bench.keep()
    old = bench.retained[NODE.desired]
    newest = bench.revise(NODE, 3.0)
    bench.keep()
    bench.reconnect()
    bench.keep()
    assert bench.published == 3
    bench.retained = {NODE.desired: old}
    bench.reconnect()
    bench.keep()
    assert bench.held(NODE) == newest and GROUP.desired in bench.retained
    assert bench.published == 5


def test_a_state_near_its_end_is_renewed_with_the_same_content(bench: Bench) -> None:
    first = bench.revise(NODE, 3.0)
    bench.keep()
    bench.now += 21 * DAY
    bench.keep()
    renewed = bench.held(NODE)
    assert renewed.power_cap_w == 3.0
    assert renewed.revision > first.revision and renewed.expires == bench.now + 30 * DAY
    assert bench.events == ["published", "renewed"]


def test_without_an_acknowledgement_it_is_tried_again(bench: Bench) -> None:
    newest = bench.revise(NODE, 3.0)
    bench.acknowledges = False
    bench.keep()
    assert bench.events == ["unpublished"]
    bench.acknowledges = True
    bench.keep()
    assert bench.held(NODE) == newest


def test_a_state_of_another_key_is_named_and_replaced_at_the_next_turn_only(bench: Bench) -> None:
    newest = bench.revise(NODE, 3.0)
    bench.keep()
    foreign = sign(Desired.of(NODE, issue(Content(), 50, bench.now)), PrivateKey.generate())
    bench.keeper.handle(NODE.desired, foreign)
    assert bench.published == 1 and bench.events[-1] == "foreign"
    bench.keep()
    assert bench.held(NODE) == newest and bench.published == 2


def test_a_newer_state_of_ours_is_taken_over_not_overwritten(bench: Bench) -> None:
    bench.revise(NODE, 3.0)
    newer = issue(Content(power_cap_w=7.0), 50, bench.now)
    bench.retained[NODE.desired] = sign(Desired.of(NODE, newer), KEY)
    bench.reconnect()
    bench.keep()
    assert bench.published == 0
    assert bench.operator.latest(NODE) == newer


def test_a_state_meant_for_another_target_is_not_taken_over(bench: Bench) -> None:
    newer = sign(Desired.of(GROUP, issue(Content(power_cap_w=7.0), 50, bench.now)), KEY)
    bench.keeper.handle(NODE.desired, newer)
    assert bench.operator.targets() == []


def test_a_cleared_one_is_restored_and_a_strange_topic_is_refused(bench: Bench) -> None:
    bench.revise(NODE, 3.0)
    bench.keep()
    bench.keeper.handle(NODE.desired, b"")
    bench.keep()
    assert bench.published == 2
    with pytest.raises(MessageError):
        bench.keeper.handle("overlaid/v1/lab/CAM/desired", b"x")
