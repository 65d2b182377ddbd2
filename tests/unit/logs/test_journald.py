"""The native protocol, against a socket of our own in the journal's place."""

from __future__ import annotations

import array
import logging
import os
import socket
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.logs import start
from agent.logs.fields import about
from agent.logs.journald import JournalHandler, encode, priority, stderr_is_journal
from agent.logs.start import start_logging


def decode(data: bytes) -> list[tuple[str, str]]:
    """As journald reads it, by the format's description."""
    fields = []
    while data:
        head, _, data = data.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if not equals:
            (size,) = struct.unpack_from("<Q", data)
            value, data = data[8 : 8 + size], data[8 + size :]
            assert data[:1] == b"\n"
            data = data[1:]
        fields.append((name.decode(), value.decode()))
    return fields


NAMES = st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.lists(st.tuples(NAMES, TEXTS)))
def test_what_is_encoded_is_read_back(fields: list[tuple[str, str]]) -> None:
    assert decode(encode(fields)) == fields


def test_a_value_with_line_breaks_makes_no_field_of_its_own() -> None:
    assert decode(encode([("MESSAGE", "x\nOVERLAID_MODEL=forged\n")])) == [
        ("MESSAGE", "x\nOVERLAID_MODEL=forged\n")
    ]


class Journal:
    """The socket and what came in."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(5)

    def read(self) -> dict[str, str]:
        data, ancillary, _, _ = self.socket.recvmsg(1 << 20, 100)
        for _, kind, rights in ancillary:
            assert kind == socket.SCM_RIGHTS and data == b""
            (memory,) = array.array("i", rights)
            with os.fdopen(memory, "rb") as file:
                file.seek(0)  # where it is written to is shared with the sender; journald maps the file
                data = file.read()
                with pytest.raises(OSError):  # sealed, or journald would refuse it
                    os.pwrite(memory, b"x", 0)
        return dict(decode(data))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    it = Journal(tmp_path / "socket")
    yield it
    it.socket.close()


@pytest.fixture
def log(journal: Journal) -> Iterator[logging.Logger]:
    logger, handler = (
        logging.getLogger("agent.link.client"),
        JournalHandler("overlaid", Path("/s"), journal.path),
    )
    logger.addHandler(handler)
    yield logger
    logger.removeHandler(handler)
    handler.close()


def test_a_record_is_an_entry_with_fields(journal: Journal, log: logging.Logger) -> None:
    with about(model="digits", deployment=17):
        log.warning("no %s", "broker", extra={"device": "gpu0"})
    entry = journal.read()
    line = int(entry.pop("CODE_LINE"))
    assert line > 0 and entry.pop("CODE_FILE") == __file__
    assert entry == {
        "MESSAGE": "no broker",
        "PRIORITY": "4",
        "CODE_FUNC": "test_a_record_is_an_entry_with_fields",
        "SYSLOG_IDENTIFIER": "overlaid",
        "OVERLAID_STATE": "/s",
        "OVERLAID_ROOM": "link",
        "OVERLAID_MODEL": "digits",
        "OVERLAID_DEPLOYMENT": "17",
        "OVERLAID_DEVICE": "gpu0",
    }


def test_a_traceback_is_part_of_the_message(journal: Journal, log: logging.Logger) -> None:
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("it failed")
    text = journal.read()["MESSAGE"]
    assert text.startswith("it failed\nTraceback") and text.endswith("ValueError: why")


def test_what_no_datagram_takes_goes_as_a_sealed_file(journal: Journal, log: logging.Logger) -> None:
    text = "ä" * (1 << 20)
    log.error("%s", text)
    entry = journal.read()
    assert entry["MESSAGE"] == text and entry["PRIORITY"] == "3"


def test_a_journal_that_takes_nothing_stops_nobody_and_lost_lines_are_counted(
    journal: Journal, log: logging.Logger
) -> None:
    log.propagate = False
    away = journal.path.rename(journal.path.with_name("away"))
    for _ in range(3):
        log.warning("lost")
    away.rename(journal.path)
    log.warning("heard")
    log.propagate = True
    assert journal.read()["MESSAGE"] == "heard"
    assert journal.read()["MESSAGE"].startswith("3 lines before this one are lost")
    log.warning("next")
    assert journal.read()["MESSAGE"] == "next"


def test_a_full_journal_is_not_waited_for(journal: Journal, log: logging.Logger) -> None:
    for _ in range(5000):  # far more than a socket queues
        log.warning("x")
    assert journal.read()["MESSAGE"] == "x"


@pytest.mark.parametrize(
    ("level", "number"), [("DEBUG", 7), ("INFO", 6), ("WARNING", 4), ("ERROR", 3), ("CRITICAL", 2)]
)
def test_levels_are_those_of_syslog(level: str, number: int) -> None:
    assert priority(int(getattr(logging, level))) == number


def test_stderr_is_the_journal_only_when_systemd_says_this_very_stream(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w") as stream:
        found = os.fstat(stream.fileno())
        right = f"{found.st_dev}:{found.st_ino}"
        assert stderr_is_journal({"JOURNAL_STREAM": right}, stream.fileno())
        for wrong in ("", "1", f"{found.st_dev}:{found.st_ino + 1}", "x:y", f"{found.st_ino}:{found.st_dev}"):
            assert not stderr_is_journal({"JOURNAL_STREAM": wrong}, stream.fileno())
        assert not stderr_is_journal({}, stream.fileno())


def test_with_a_journal_the_text_is_the_message_alone(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "stderr_is_journal", lambda: True)
    monkeypatch.setattr(start, "JournalHandler", partial(JournalHandler, path=journal.path))
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        start_logging(False, Path("/s"))
        logging.getLogger("agent.link.client").info("connected", extra={"model": "digits"})
    finally:
        root.handlers[0].close()
        root.handlers[:], root.level = before
    entry = journal.read()
    assert (entry["MESSAGE"], entry["OVERLAID_MODEL"], entry["OVERLAID_STATE"]) == (
        "connected",
        "digits",
        "/s",
    )


def test_without_a_journal_the_log_is_text_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        start_logging(False)
        logging.getLogger("agent.link.client").warning("no broker", extra={"model": "digits"})
        logging.getLogger("app").debug("detail")
    finally:
        root.handlers[:], root.level = before
    err = capsys.readouterr().err
    assert err.rstrip().endswith("WARNING link no broker") and "detail" not in err
