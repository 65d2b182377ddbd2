"""The examples of docs/wire.md are what the code accepts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from agent.errors import UnknownKey
from agent.fleet import metadata_server
from agent.link import repo, window
from agent.link.enrolment import EnrolAnswer, EnrolRequest
from agent.link.messages import (
    BlockRequest,
    Capabilities,
    Command,
    DeploymentEnd,
    Desired,
    Message,
    RepoRequest,
    Reported,
    Result,
    Status,
    TelemetryBatch,
    parse,
)
from agent.link.topics import OPS
from agent.trust import unseal
from agent.types import Phase, State

PAGE = (Path(__file__).parents[3] / "docs" / "wire.md").read_text()
EXAMPLES = dict(re.findall(r"^```json (\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
KINDS: dict[str, type[Message]] = {
    "desired": Desired,
    "command": Command,
    "result": Result,
    "reported": Reported,
    "status": Status,
    "capabilities": Capabilities,
    "telemetry": TelemetryBatch,
    "events": DeploymentEnd,
    "request": BlockRequest,
    "repo": RepoRequest,
    "enrol_request": EnrolRequest,
    "enrol_answer": EnrolAnswer,
}


def test_every_payload_has_an_example() -> None:
    assert set(EXAMPLES) == {*KINDS, "envelope"}


@pytest.mark.parametrize("kind", KINDS)
def test_examples_parse_and_name_the_fields(kind: str) -> None:
    parse(KINDS[kind], EXAMPLES[kind].encode())
    if kind != "command":  # its optional fields exclude each other
        assert set(json.loads(EXAMPLES[kind])) == set(KINDS[kind].model_fields)


def test_the_envelope_has_the_form_that_is_opened() -> None:
    with pytest.raises(UnknownKey):
        unseal("desired", EXAMPLES["envelope"].encode(), {})


def test_words_and_limits_are_those_of_the_code() -> None:
    for word in (*State, *Phase, *OPS):
        assert (word.value if isinstance(word, (State, Phase)) else word) in PAGE
    assert f"at most {window.MAX_BLOCKS} blocks and {window.MAX_BYTES >> 20} MiB" in PAGE
    assert (
        f"asks again after {window.START_S:g} s, then after twice as long each time, {window.CAP_S:g} s at most"
        in PAGE
    )
    assert f"a clean-start connection that ends {repo.LINGER_S:g} s after" in PAGE
    assert f"The server sends a file at most once in {metadata_server.COALESCE_S:g} s" in PAGE
    assert f"({window.FLOOR_S:g} s to {window.CAP_S:g} s)" in PAGE
