"""What the outbox keeps, drops and reports; sending is tested against a broker."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import LinkError
from agent.link.outbox import Outbox


def kept(path: Path) -> list[tuple[str, bytes, int]]:
    """What a power cut would leave: a copy of the files as they are, the outbox holding its own open."""
    copy = Path(tempfile.mkdtemp(dir=path.parent))
    for file in path.parent.glob(path.name + "*"):
        shutil.copy(file, copy)
    database = sqlite3.connect(copy / path.name)
    try:
        return database.execute("SELECT topic, payload, priority FROM outbox ORDER BY id").fetchall()
    finally:
        database.close()


def test_messages_are_on_the_disk_at_once_and_survive(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    first = Outbox(path, max_rows=10)
    first.put("a", b"\x00\xff", 1)
    first.put("b", b"", 2)
    assert kept(path) == [("a", b"\x00\xff", 1), ("b", b"", 2)]
    first.close()
    second = Outbox(path, max_rows=10)
    assert len(second) == 2
    second.close()


@settings(max_examples=25, deadline=None)
@given(priorities=st.lists(st.integers(0, 3), max_size=30), limit=st.integers(1, 8))
def test_the_oldest_of_the_lowest_priority_go_first(
    tmp_path_factory: pytest.TempPathFactory, priorities: list[int], limit: int
) -> None:
    path = tmp_path_factory.mktemp("outbox") / "state.db"
    box = Outbox(path, limit)
    model: list[tuple[int, int]] = []
    for number, priority in enumerate(priorities):
        box.put("t", b"%d" % number, priority)
        model.append((priority, number))
        if len(model) > limit:
            model.remove(min(model))
    assert [(row[2], int(row[1])) for row in kept(path)] == model
    assert len(box) == len(model)
    assert box.dropped == len(priorities) - len(model)
    box.close()


def test_a_smaller_limit_after_a_restart_trims_what_is_too_much(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "state.db", 10)
    for number in range(10):
        box.put("t", b"%d" % number)
    box.close()
    box = Outbox(tmp_path / "state.db", 3)
    box.put("t", b"10")
    assert [row[1] for row in kept(tmp_path / "state.db")] == [b"8", b"9", b"10"]
    assert len(box) == 3
    box.close()


def test_what_cannot_be_sent_or_stored_is_a_named_error(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "state.db", 3)
    with pytest.raises(LinkError, match="more than"):
        box.put("t", bytes((1 << 20) + 1))
    box.close()
    with pytest.raises(LinkError, match="cannot be used"):
        box.put("t", b"")
    (tmp_path / "broken.db").write_bytes(b"not a database" * 100)
    with pytest.raises(LinkError, match=r"broken\.db"):
        Outbox(tmp_path / "broken.db", 3)
    with pytest.raises(LinkError, match="cannot be used"):
        Outbox(tmp_path / "absent" / "state.db", 3)
