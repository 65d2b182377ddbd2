"""The ``logs`` command: which rows, within which limits."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from agent.app.commands import Commands
from agent.deploy.manager import Manager
from agent.link.messages import MAX_LOG_BYTES, Command
from agent.link.topics import Target
from agent.logs.recent import Recent
from agent.telemetry.writer import Telemetry
from agent.types import State

NODE = Target("plant", "n1")


class Bench:
    """Commands of a node that recorded two events an hour ago, and began to log just now."""

    def __init__(self, folder: Path) -> None:
        self.path, self.sent, self.recent = folder / "telemetry.db", list[dict[str, Any]](), Recent()
        now = time.time() - 3600
        telemetry = Telemetry(self.path, 8, clock=lambda: now)
        telemetry.event("started", "overlaid 0.1.0")
        telemetry.event("worker-crashed", "signal 9", "digits")
        telemetry.close()
        self.log = logging.getLogger("agent.deploy.test_commands")
        self.commands = Commands(NODE, cast(Manager, None), self.path, self._send, self.recent)

    def _send(self, topic: str, payload: bytes) -> None:
        self.sent.append(json.loads(payload))

    def ask(self, **limits: Any) -> dict[str, Any]:
        """The result's output."""
        command = Command(
            target=str(NODE), id="0" * 16, op="logs", sequence=1, issued=0.0, expires=1.0, **limits
        )
        asyncio.run(self.commands.perform(command))
        last = self.sent[-1]
        assert last["state"] == State.SUCCEEDED.value
        output: dict[str, Any] = last["output"]
        return output

    def texts(self, **limits: Any) -> list[str]:
        return [row["text"] for row in self.ask(**limits)["rows"]]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    it = Bench(tmp_path)
    it.log.addHandler(it.recent)
    it.log.setLevel(logging.INFO)
    yield it
    it.log.removeHandler(it.recent)


def test_what_the_node_logged_follows_what_it_recorded_before(bench: Bench) -> None:
    bench.log.warning("late", extra={"model": "digits", "deployment": 3, "device": "cpu"})
    output = bench.ask()
    assert [row["text"] for row in output["rows"]] == ["overlaid 0.1.0", "signal 9", "late"]
    last = output["rows"][-1]
    assert last.pop("time") > output["rows"][0]["time"] and not output["left_out"]
    topic = {"model": "digits", "deployment": 3, "device": "cpu"}
    assert last == {"level": "WARNING", "room": "deploy", "text": "late", **topic}


def test_rows_are_chosen_by_model_and_age(bench: Bench) -> None:
    bench.log.info("of digits", extra={"model": "digits"})
    bench.log.info("of kws", extra={"model": "kws"})
    assert bench.texts(model="digits") == ["signal 9", "of digits"]
    assert bench.texts(since_s=60.0) == ["of digits", "of kws"]
    assert bench.texts(since_s=7200.0, model="kws") == ["of kws"]


def test_the_newest_lines_are_kept(bench: Bench) -> None:
    for number in range(3):
        bench.log.info("%d", number)
    assert bench.texts(lines=2) == ["1", "2"] and bench.ask(lines=2)["left_out"]
    assert bench.texts(lines=4) == ["signal 9", "0", "1", "2"] and bench.ask(lines=4)["left_out"]
    assert bench.texts(lines=5)[0] == "overlaid 0.1.0" and not bench.ask(lines=5)["left_out"]


def test_bytes_are_bounded_even_when_none_are_named(bench: Bench) -> None:
    for number in range(400):
        bench.log.info("%d %s", number, "\x00" * 1900)
    for limits in ({}, {"max_bytes": 1024}, {"max_bytes": 20_000}):
        output = bench.ask(lines=1000, **limits)
        assert output["left_out"] and output["rows"][-1]["text"].startswith("399 ")
        assert len(json.dumps(output["rows"])) <= limits.get("max_bytes", MAX_LOG_BYTES) + 2


def test_a_database_that_cannot_be_read_hides_no_lines(bench: Bench) -> None:
    bench.path.write_bytes(b"rubbish" * 1000)
    bench.log.info("here")
    why, here = bench.texts()
    assert why.startswith("what was before is not known") and here == "here"


@pytest.mark.parametrize(
    "limits", [{"lines": 0}, {"lines": 1001}, {"max_bytes": 1023}, {"max_bytes": 1 << 20}, {"since_s": 0.0}]
)
def test_limits_out_of_range_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(limits))):
        Command(target=str(NODE), id="0" * 16, op="logs", sequence=1, issued=0.0, expires=1.0, **limits)
