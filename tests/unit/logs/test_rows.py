"""Rows: kept, filtered, bounded, shown."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.logs.fields import about
from agent.logs.recent import MAX_ROWS, MAX_TEXT, Recent
from agent.logs.rows import LogRow, Wanted, line, newest_within, of_event


@pytest.fixture
def recent() -> Iterator[Recent]:
    handler, logger = Recent(), logging.getLogger("agent.test_rows")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)


def test_the_newest_lines_are_kept_with_what_they_are_about(recent: Recent) -> None:
    log = logging.getLogger("agent.test_rows")
    with about(model="digits", deployment=3):
        log.info("x" * 2 * MAX_TEXT)
    row = recent.rows()[0]
    assert (row.level, row.room, row.model, row.deployment) == ("INFO", "test_rows", "digits", 3)
    assert len(row.text) == MAX_TEXT and row.time >= recent.began
    for number in range(MAX_ROWS):
        log.info("%d", number)
    rows = recent.rows()
    assert len(rows) == MAX_ROWS and (rows[0].text, rows[-1].text) == ("0", str(MAX_ROWS - 1))


def test_a_line_that_cannot_be_written_is_told_by_logging_and_not_raised(
    recent: Recent, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = logging.getLogger("agent.test_rows")
    monkeypatch.setattr(log, "propagate", False)  # pytest's own handler raises it
    log.info("%d", "no number")
    assert recent.rows() == [] and "no number" in capsys.readouterr().err


def test_rows_are_wanted_by_time_and_by_what_they_are_about() -> None:
    row = LogRow(10.0, "INFO", "deploy", "t", "digits", 3, "cpu")
    for wanted in (Wanted(), Wanted(since=10.0), Wanted(model="digits", deployment=3, device="cpu")):
        assert wanted.takes(row)
    for wanted in (Wanted(since=10.1), Wanted(model="kws"), Wanted(deployment=4), Wanted(device="gpu0")):
        assert not wanted.takes(row)


@given(st.lists(st.text(max_size=40), max_size=20), st.integers(700, 3000))
def test_what_is_sent_is_the_newest_within_the_bytes(texts: list[str], limit: int) -> None:
    rows = [LogRow(float(number), "INFO", "r", text) for number, text in enumerate(texts)]
    kept = newest_within(rows, limit)
    assert len(json.dumps(kept)) <= limit + 2
    assert kept == [row.to_json() for row in rows[len(rows) - len(kept) :]]
    if len(kept) < len(rows):
        left = rows[len(rows) - len(kept) - 1 :]
        assert len(json.dumps([row.to_json() for row in left])) > limit


@given(st.text(min_size=300, max_size=2000))
def test_a_row_that_is_too_long_by_itself_is_cut(text: str) -> None:
    (kept,) = newest_within([LogRow(1.0, "INFO", "r", text + "x" * 1024)], 1024)
    assert len(json.dumps([kept])) <= 1026 and kept["text"].endswith("…")
    assert text.startswith(kept["text"][:-1]) or kept["text"][:-1].startswith(text)


def test_a_line_for_people_names_the_model_once() -> None:
    assert line(LogRow(0.0, "INFO", "r", "digits: up", "digits").to_json())[20:] == "INFO r digits: up"
    assert line(LogRow(0.0, "INFO", "r", "up", "digits").to_json())[20:] == "INFO r digits: up"
    event = of_event({"id": 1, "time": 0.0, "kind": "broker", "model": None, "text": "connected"})
    assert line(event.to_json())[20:] == "broker connected"


@pytest.mark.parametrize("row", [{}, {"time": []}, {"time": 1e300, "text": None}, {"level": {}, "text": [1]}])
def test_rows_of_no_known_form_are_lines_all_the_same(row: dict[str, object]) -> None:
    assert line(row).startswith("-")
