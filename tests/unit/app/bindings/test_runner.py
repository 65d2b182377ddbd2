"""Which bindings run, what is subscribed to, and what is shown of the others."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from agent.app.bindings.runner import Bindings, subscriptions
from agent.link.client import MqttSettings
from agent.mqtt import matches
from agent.types import Binding
from tests.system.brokers import free_port
from tests.unit.app.bindings.worker import until

NAMES = st.sampled_from(["a", "b", "+"])
Inputs = st.lists(NAMES, max_size=3).map(lambda rest: "/".join(["a", *rest])) | st.sampled_from(
    ["a/#", "a/b/#"]
)
Topics = st.lists(st.sampled_from(["a", "b", "c"]), max_size=3).map(lambda rest: "/".join(["a", *rest]))


@given(st.lists(st.tuples(Inputs, st.sampled_from([0, 1])), max_size=6), Topics)
def test_every_message_comes_and_at_the_qos_of_those_who_want_it(
    inputs: list[tuple[str, int]], topic: str
) -> None:
    bindings = [Binding(each, "m", f"out/{i}", qos=qos) for i, (each, qos) in enumerate(inputs)]  # type: ignore[arg-type]
    made = subscriptions(bindings)
    for binding in bindings:
        if matches(binding.input_topic, topic):
            assert any(matches(each, topic) and qos >= binding.qos for each, qos in made.items())
    assert all(any(matches(each, topic) for each, _ in inputs) for wide in made if matches(wide, topic))


def test_a_filter_within_another_is_not_subscribed_to_twice() -> None:
    bindings = [Binding("a/+", "m", "x"), Binding("a/b", "m", "y", qos=1), Binding("c", "m", "z")]
    assert subscriptions(bindings) == {"a/+": 1, "c": 0}


def test_bindings_wait_are_refused_and_run_as_models_come_and_go(tmp_path: Path) -> None:
    good, other = Binding("a", "m", "b"), Binding("x", "n", "y")
    circle = (Binding("p", "m", "q"), Binding("q", "m", "p"))
    wanted: tuple[Binding, ...] = (good, other, *circle)
    served = {"m"}
    told: list[str] = []
    changes: list[None] = []

    def wants() -> tuple[Binding, ...]:
        return wanted

    bindings = Bindings(
        MqttSettings("127.0.0.1", free_port(), "t", clean_session=True),
        wants,
        lambda model: tmp_path if model in served else None,
        lambda text, _: told.append(text),
        lambda: changes.append(None),
    )

    def seen() -> list[tuple[str, str]]:
        return [(status.state, status.why) for status in bindings.statuses()]

    async def run() -> None:
        nonlocal wanted
        task = asyncio.create_task(bindings.run())
        await until(lambda: len(seen()) == 4 and "nothing listens" in seen()[0][1])  # there is no broker
        states, whys = zip(*seen(), strict=True)
        assert states == ("WAITING", "WAITING", "REFUSED", "REFUSED")
        assert whys[1] == "no model n is in service here" and "p -> m -> q; q -> m -> p" in whys[2]
        assert changes and any("no model n" in text for text in told)
        count = len(told)
        bindings.look()
        await asyncio.sleep(0.05)
        assert len(told) == count  # what was told is not told again
        wanted = (other,)
        bindings.look()
        await until(lambda: seen() == [("WAITING", "no model n is in service here")])
        wanted = ()
        bindings.look()
        await until(lambda: not seen())
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
