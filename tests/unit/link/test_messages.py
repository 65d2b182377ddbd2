"""Payloads round-trip; whatever is wrong with one is a named error that names the key."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import BadSignature, Expired, MessageError, OverlaidError, UnknownKey, WrongTarget
from agent.link.messages import (
    MAX_CONTROL_BYTES,
    BlockRequest,
    Capabilities,
    Command,
    Desired,
    Message,
    Reported,
    ReportedBinding,
    ReportedModel,
    Result,
    Status,
    TelemetryBatch,
    open_signed,
    parse,
    sign,
)
from agent.link.topics import Target
from agent.trust import PrivateKey, keyring, seal
from agent.types import Binding, BoardInfo, Budget, DesiredModel, DesiredState, Phase, State
from tests.unit.link.test_topics import Names, Targets

KEY = PrivateKey.generate()
KEYS = keyring([KEY.public])
TARGET = Target("plant", "cam-7")
DIGEST = "ab" * 32

Versions = st.from_regex(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,20}", fullmatch=True)
Digests = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
Times = st.floats(0, 4e9)
Budgets = st.builds(
    Budget,
    st.floats(0.001, 3_600_000),
    st.floats(0, 1_000_000),
    st.none() | st.floats(0.001, 100_000),
    st.none() | st.floats(0, 1),
    st.integers(0, 9),
)
Models = st.lists(
    st.builds(DesiredModel, Names, Versions, Digests, Budgets), max_size=4, unique_by=lambda model: model.name
).map(tuple)
Bindings = st.lists(
    st.builds(
        Binding,
        Names.map(lambda name: f"in/{name}"),
        Names,
        Names.map(lambda name: f"out/{name}"),
        st.sampled_from(["json", "raw"]),
        st.none() | st.floats(0.001, 100_000),
        st.sampled_from([0, 1]),
    ),
    max_size=4,
    unique_by=lambda binding: binding.key,
).map(tuple)
States = st.builds(
    DesiredState, st.integers(1, 2**53), Times, Times, Models, st.none() | st.floats(0.001, 1000), Bindings
)
Ops = st.sampled_from(["logs", "bench", "cancel", "restart"])
Ids = st.from_regex(r"[0-9a-z][0-9a-z-]{0,62}", fullmatch=True)
Whys = st.text(max_size=50)
Json = st.dictionaries(
    st.text(max_size=8), st.none() | st.booleans() | st.integers(-(2**53), 2**53) | Whys, max_size=4
)
Reports = st.builds(
    ReportedModel,
    name=Names,
    version=Versions,
    state=st.sampled_from(State),
    phase=st.none() | st.sampled_from(Phase),
    progress=st.none() | st.floats(0, 1),
    why=Whys,
    p99_ms=st.none() | st.floats(0, 1e6),
)
Payloads = st.one_of(
    st.builds(Desired.of, Targets, States),
    st.builds(
        Command, target=Targets.map(str), id=Ids, op=Ops, sequence=st.integers(1, 2**53), issued=Times, expires=Times,
        model=st.none() | Names, lines=st.integers(1, 1000),
    ),
    st.builds(Result, id=Ids, op=Ops, state=st.sampled_from(State), why=Whys, output=Json),
    st.builds(
        Reported, revision_seen=st.integers(0, 99), revision_applied=st.integers(0, 99), time=Times,
        models=st.lists(Reports, max_size=3), why=Whys,
        bindings=st.lists(
            st.builds(
                ReportedBinding, input_topic=Whys, model=Names, output_topic=Whys,
                state=st.sampled_from(["RUNNING", "WAITING", "REFUSED"]), why=Whys,
            ),
            max_size=3,
        ),
    ),
    st.builds(Status, online=st.booleans(), boot_id=st.text(max_size=64)),
    st.builds(BlockRequest, blocks=st.lists(Digests, min_size=1, max_size=16)),
    st.builds(
        TelemetryBatch, series=st.from_regex(r"\A[0-9a-z]{1,64}\Z"), boot_id=st.text(max_size=64),
        sequence=st.integers(1, 2**53), time=Times,
        rows=st.lists(Json, max_size=3),
    ),
)  # fmt: skip


@settings(deadline=None)
@given(Payloads)
def test_payloads_round_trip(message: Message) -> None:
    assert parse(type(message), message.encode()) == message


@settings(deadline=None)
@given(Targets, States)
def test_a_desired_state_round_trips_through_its_envelope(target: Target, state: DesiredState) -> None:
    message = Desired.of(target, state)
    assert message.state() == state
    key_id, opened = open_signed(Desired, sign(message, KEY), KEYS, target, now=state.expires - 1)
    assert (key_id, opened.state()) == (KEY.public.id, state)


@pytest.mark.parametrize(
    ("bindings", "what"),
    [
        ([{"input_topic": "a", "model": "m", "output_topic": "a"}], "a -> m -> a"),
        ([{"input_topic": "a", "model": "m", "output_topic": "b/+"}], r"bindings.0: output topic 'b/\+'"),
        ([{"input_topic": "a", "model": "m", "output_topic": "b", "format": "xml"}], "bindings.0.format"),
        ([{"input_topic": "a", "model": "m", "output_topic": "b", "speed": 3}], "bindings.0.speed: unknown"),
        ([{"input_topic": "a", "model": "m", "output_topic": "b", "qos": 2}], "bindings.0.qos"),
        ([{"input_topic": f"a/{i}", "model": "m", "output_topic": "b"} for i in range(33)], "bindings"),
    ],
)
def test_a_wrong_binding_is_refused_by_name(bindings: list[dict[str, Any]], what: str) -> None:
    state = {"target": "plant/cam-7", "revision": 1, "issued": 1.0, "expires": 2.0, "bindings": bindings}
    with pytest.raises(MessageError, match=what):
        parse(Desired, json.dumps(state).encode())


def test_capabilities_carry_the_board() -> None:
    message = Capabilities.of("0.1.0", BoardInfo("local", False, ()), ("cams",))
    assert parse(Capabilities, message.encode()) == message


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from([Desired, Command, Status, Reported, Result, BlockRequest]))
def test_rubbish_is_a_message_error(data: bytes, kind: type[Message]) -> None:
    with pytest.raises(MessageError):
        parse(kind, data)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_rubbish_is_no_envelope(data: bytes) -> None:
    with pytest.raises(OverlaidError):
        open_signed(Command, data, KEYS, TARGET, now=0.0)


def desired(**changes: Any) -> bytes:
    model = {
        "name": "digits",
        "version": "1",
        "digest": DIGEST,
        "budget": {"latency_p99_ms": 20.0, "rate_hz": 10.0},
    }
    value = {"target": "plant/cam-7", "revision": 1, "issued": 1.0, "expires": 2.0, "models": [model]}
    path, last = value, None
    for name, change in changes.items():
        *parents, last = name.split("__")
        path = value
        for parent in parents:
            path = path[int(parent)] if parent.isdigit() else path[parent]  # type: ignore[assignment, index]
        path[last] = change
    return json.dumps(value).encode()


def test_the_sample_is_valid() -> None:
    assert parse(Desired, desired()).models[0].budget.rate_hz == 10.0
    assert parse(Desired, desired()).models[0].instances == 1
    assert parse(Desired, desired(models__0__instances=16)).models[0].instances == 16


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"surprise": 1}, "surprise: unknown key"),
        ({"models__0__surprise": 1}, "models.0.surprise"),
        ({"models__0__budget__latency_ms": 1}, "models.0.budget.latency_ms"),
        ({"revision": "1"}, "revision"),
        ({"revision": 1.5}, "revision"),
        ({"revision": 0}, "revision"),
        ({"revision": 2**53 + 1}, "revision"),
        ({"revision": True}, "revision"),
        ({"expires": "tomorrow"}, "expires"),
        ({"expires": None}, "expires"),
        ({"power_cap_w": -1.0}, "power_cap_w"),
        ({"power_cap_w": "0.5W"}, "power_cap_w"),
        ({"models": {}}, "models"),
        ({"models__0__name": "Digits"}, "a-z"),
        ({"models__0__name": "a/b"}, "a-z"),
        ({"models__0__name": "group"}, "reserved"),
        ({"models__0__digest": "ab"}, "hex"),
        ({"models__0__version": "../1"}, "version"),
        ({"models__0__budget__latency_p99_ms": "20ms"}, "latency_p99_ms"),
        ({"models__0__budget__latency_p99_ms": -1.0}, "latency_p99_ms"),
        ({"models__0__budget__min_accuracy": 97.0}, "min_accuracy"),
        ({"models__0__budget__priority": 10}, "priority"),
        ({"models__0__instances": 0}, "instances"),
        ({"models__0__instances": 17}, "instances"),
        ({"models__0__instances": True}, "instances"),
        ({"models__0__instances": "2"}, "instances"),
    ],
)
def test_what_is_wrong_in_a_desired_state_is_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(MessageError) as caught:
        parse(Desired, desired(**changes))
    assert named in str(caught.value)


def test_a_model_may_appear_once() -> None:
    value = json.loads(desired())
    value["models"] *= 2
    with pytest.raises(MessageError, match="twice"):
        parse(Desired, json.dumps(value).encode())


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(MessageError):
        parse(Desired, desired().replace(b'"expires": 2.0', b'"expires": ' + text.encode()))


def test_oversized_and_deep_payloads_are_refused() -> None:
    with pytest.raises(MessageError, match="bytes, more than"):
        parse(Status, b" " * (MAX_CONTROL_BYTES + 1))
    with pytest.raises(MessageError, match="bytes, more than"):
        open_signed(Command, b" " * (MAX_CONTROL_BYTES + 1), KEYS, TARGET, now=0.0)
    deep = b"[" * 100_000 + b"]" * 100_000
    with pytest.raises(MessageError):
        parse(Result, b'{"id": "a", "op": "logs", "state": "FAILED", "output": {"x": ' + deep + b"}}")
    with pytest.raises(MessageError):
        open_signed(Command, deep, KEYS, TARGET, now=0.0)


@pytest.mark.parametrize("blocks", [[], [DIGEST] * 17, ["AB" * 32], [1], [DIGEST[:-1]], "x"])
def test_block_requests_are_bounded(blocks: object) -> None:
    with pytest.raises(MessageError, match="blocks"):
        parse(BlockRequest, json.dumps({"blocks": blocks}).encode())


def command(target: str = "plant/cam-7", expires: float = 200.0) -> Command:
    return Command(target=target, id="a1", op="restart", sequence=1, issued=100.0, expires=expires)


def test_a_signed_command_opens() -> None:
    assert open_signed(Command, sign(command(), KEY), KEYS, TARGET, now=150.0) == (KEY.public.id, command())


def test_unsigned_foreign_altered_and_mixed_up_messages_are_refused() -> None:
    with pytest.raises(MessageError, match="not a signed command"):
        open_signed(Command, command().encode(), KEYS, TARGET, now=150.0)
    with pytest.raises(UnknownKey):
        open_signed(Command, sign(command(), PrivateKey.generate()), KEYS, TARGET, now=150.0)
    altered = json.loads(sign(command(), KEY))
    altered["payload"] = json.loads(seal("command", command(expires=1e9).encode(), KEY))["payload"]
    with pytest.raises(BadSignature):
        open_signed(Command, json.dumps(altered).encode(), KEYS, TARGET, now=150.0)
    with pytest.raises(MessageError, match="kind"):
        open_signed(Command, seal("desired", command().encode(), KEY), KEYS, TARGET, now=150.0)
    relabelled = json.loads(seal("desired", command().encode(), KEY))
    relabelled["kind"] = "command"
    with pytest.raises(BadSignature):
        open_signed(Command, json.dumps(relabelled).encode(), KEYS, TARGET, now=150.0)
    extra = json.loads(sign(command(), KEY)) | {"extra": 1}
    with pytest.raises(MessageError, match="exactly"):
        open_signed(Command, json.dumps(extra).encode(), KEYS, TARGET, now=150.0)


@pytest.mark.parametrize("target", ["plant/cam-8", "other/cam-7", "plant/group/cam-7", ""])
def test_messages_for_others_are_refused(target: str) -> None:
    with pytest.raises(WrongTarget, match="addressed to"):
        open_signed(Command, sign(command(target), KEY), KEYS, TARGET, now=150.0)


def test_expired_messages_are_refused() -> None:
    with pytest.raises(Expired, match="issue it again"):
        open_signed(Command, sign(command(expires=150.0), KEY), KEYS, TARGET, now=150.0)
