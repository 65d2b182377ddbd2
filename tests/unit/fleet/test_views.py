"""What nodes say, as values and lines."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import MessageError
from agent.fleet.views import Heard, NodeView, changes, node_filters
from agent.link.messages import Reported, ReportedBinding, ReportedModel, Result, Status, TelemetryBatch
from agent.types import Phase, State

BASE = "overlaid/v1/lab/cam-7"
BORN = Status(online=True, boot_id="b1")


def report(*models: ReportedModel, **more: object) -> Heard:
    fields = {"revision_seen": 1, "revision_applied": 0, "time": 1.0, "models": list(models), **more}
    message = Reported.model_validate(fields)
    return Heard.parse("lab", f"{BASE}/reported", message.encode(), 5.0)


def digits(state: State, **more: object) -> ReportedModel:
    return ReportedModel.model_validate({"name": "digits", "version": "1.0.0", "state": state, **more})


@pytest.mark.parametrize(
    "topic",
    [
        "overlaid/v1/lab/cam-7",
        "overlaid/v1/lab/cam-7/status/more",
        "overlaid/v1/lab/cam-7/desired",
        "overlaid/v1/lab/cam-7/result/logs",
        "overlaid/v1/lab/CAM/status",
        "overlaid/v1/lab/group/status",
        "overlaid/v1/other/cam-7/status",
        "overlaid/v2/lab/cam-7/status",
        "",
    ],
)
def test_only_a_node_s_own_topics_are_heard(topic: str) -> None:
    with pytest.raises(MessageError):
        Heard.parse("lab", topic, BORN.encode(), 1.0)


def test_a_result_belongs_to_the_topic_it_came_on() -> None:
    result = Result(id="c1", op="logs", state=State.SUCCEEDED)
    heard = Heard.parse("lab", f"{BASE}/result/logs/c1", result.encode(), 1.0)
    assert heard.message == result
    for wrong in ("bench/c1", "logs/c2"):
        with pytest.raises(MessageError, match="on the topic of"):
            Heard.parse("lab", f"{BASE}/result/{wrong}", result.encode(), 1.0)


@given(st.binary(max_size=200), st.sampled_from(["status", "reported", "capabilities", "telemetry/power"]))
def test_any_payload_is_a_message_or_a_message_error(payload: bytes, kind: str) -> None:
    try:
        Heard.parse("lab", f"{BASE}/{kind}", payload, 1.0)
    except MessageError:
        return
    json.loads(payload)


def test_what_is_stored_comes_back_and_telemetry_loses_its_rows() -> None:
    heard = report(digits(State.SUCCEEDED, device="cpu"))
    assert Heard.stored("cam-7", "reported", 5.0, heard.text()) == heard
    batch = TelemetryBatch(series="s", boot_id="b1", sequence=3, time=1.0, rows=[{"a": 1}])
    beat = Heard.parse("lab", f"{BASE}/telemetry/power", batch.encode(), 1.0)
    assert json.loads(beat.text())["rows"] == []


def test_filters_match_what_parse_takes() -> None:
    assert node_filters("lab", "status", "telemetry", "result") == [
        "overlaid/v1/lab/+/status",
        "overlaid/v1/lab/+/telemetry/+",
        "overlaid/v1/lab/+/result/+/+",
    ]


def test_a_repeated_message_is_no_change() -> None:
    first = report(digits(State.SUCCEEDED, p99_ms=2.0))
    again = report(digits(State.SUCCEEDED, p99_ms=3.0))
    view = NodeView("cam-7")
    assert [event.kind for event in changes(view, first)] == ["model"]
    assert changes(view.after(first), again) == []
    born = Heard("cam-7", "status", 1.0, BORN)
    assert [event.text for event in changes(view, born)] == ["online (boot b1)"]
    assert changes(view.after(born), born) == []


def test_lines_tell_phases_failures_with_reasons_and_removals() -> None:
    def line(view: NodeView, heard: Heard) -> list[str]:
        return [event.text for event in changes(view, heard)]

    view = NodeView("cam-7")
    loading = report(digits(State.IN_PROGRESS, phase=Phase.DOWNLOADING, progress=0.42))
    assert line(view, loading) == ["digits 1.0.0: IN_PROGRESS DOWNLOADING"]
    view = view.after(loading)
    assert line(view, report(digits(State.IN_PROGRESS, phase=Phase.DOWNLOADING, progress=0.95))) == []
    assert line(view, report(digits(State.IN_PROGRESS, phase=Phase.SOAKING, progress=0.1))) == [
        "digits 1.0.0: IN_PROGRESS SOAKING"
    ]
    failed = report(
        digits(State.FAILED, why="GoldenMismatch: far off", running_version="0.9.0"), revision_applied=1
    )
    assert line(view, failed) == [
        "digits 1.0.0: FAILED, still serving 0.9.0, GoldenMismatch: far off",
        "revision 1 applied",
    ]
    view = view.after(failed)
    gone = report(revision_applied=1, why="Expired: too late", power_cap_w=3.0)
    assert line(view, gone) == ["desired state refused: Expired: too late", "digits removed", "power cap 3 W"]


def test_bindings_that_come_change_and_go_are_told() -> None:
    waits = ReportedBinding(input_topic="a", model="m", output_topic="b", state="WAITING", why="no model m")
    runs = ReportedBinding(input_topic="a", model="m", output_topic="b", state="RUNNING")
    view = NodeView("cam-7")
    said = []
    for bindings in ([waits], [waits], [runs], []):
        heard = report(bindings=bindings)
        said += [(event.kind, event.text) for event in changes(view, heard)]
        view = view.after(heard)
    assert said == [
        ("binding", "a -> m -> b: WAITING: no model m"),
        ("binding", "a -> m -> b: RUNNING"),
        ("unbound", "a -> b unbound"),
    ]


def test_every_event_is_one_json_line() -> None:
    heard = report(digits(State.SUCCEEDED, device="cpu", variant="int8", backend="onnxruntime"))
    (event,) = changes(NodeView("cam-7"), heard)
    line = json.loads(json.dumps(event.line()))
    assert line["event"] == "model" and line["node"] == "cam-7" and line["model"]["state"] == "SUCCEEDED"
    assert line["text"] == "digits 1.0.0: SUCCEEDED, int8 on cpu (onnxruntime)"
