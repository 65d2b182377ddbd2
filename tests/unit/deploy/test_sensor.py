"""Whether a meter tells is said once, and only for the meter's sake."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from agent.deploy.sensor import NOTE, SILENT, Sensor
from agent.placement.adapting.rest import Rest
from agent.placement.demand import Placed
from agent.types import Candidate

PLACED = Placed("digits", Candidate("int8", "onnxruntime", "cpu"), None, (), "least energy")


class Node:
    """A sensor's looks, each with what the meters showed and for how long the rest got no news."""

    def __init__(self, meters: tuple[str, ...] = ("VDD_IN",)) -> None:
        self.told: list[str] = []
        telemetry = SimpleNamespace(event=lambda kind, text: self.told.append(text))
        self.sensor = Sensor(cast(Any, SimpleNamespace(meters=meters, telemetry=telemetry)))

    def look(self, power_w: float | None, blind_s: float = 0.0) -> bool:
        return self.sensor.seen(power_w, Rest(3.0, blind_s=blind_s))


def test_a_meter_that_stops_to_tell_is_said_once_and_noted_under_a_cap() -> None:
    node = Node()
    assert not node.look(4.0) and not any(node.look(None, 1.0 + i) for i in range(SILENT - 1))
    assert node.look(float("nan"), 3.0) and not node.look(-1.0, 4.0)
    assert NOTE in node.sensor.noted(PLACED, 6.0).reason
    assert node.sensor.noted(PLACED, None) is PLACED
    assert not node.look(400.0, 5.0)  # a reading, but no sensible one: the rest is not taken from it
    assert node.look(4.0) and node.sensor.noted(PLACED, 6.0) is PLACED
    assert [text.split(";")[0] for text in node.told] == [
        "no power meter answers",
        "a power meter answers again",
    ]


def test_who_did_not_ask_for_long_has_no_silent_meter() -> None:
    node = Node()
    node.look(4.0)
    assert not node.look(4.0, blind_s=60.0)  # after a deployment, which kept looks from asking
    assert not node.look(None, blind_s=61.0) and not node.told


def test_a_node_without_meters_has_none_that_is_silent() -> None:
    node = Node(meters=())
    assert not any(node.look(None, 1.0 + i) for i in range(2 * SILENT)) and not node.told
