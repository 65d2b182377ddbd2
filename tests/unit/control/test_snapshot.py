from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.control import snapshot
from agent.errors import ControlError, StoreError
from agent.types import Binding, BindingStatus, Candidate, ModelStatus, Snapshot, State, to_jsonable

MODEL = ModelStatus("digits", "1.0.0", "0" * 64, State.SUCCEEDED, candidate=Candidate("int8", "ort", "cpu"))
BOUND = BindingStatus(Binding("s/a", "digits", "o/a"), "RUNNING")
SNAPSHOT = Snapshot(
    time=1000.0,
    node="n1",
    site="s",
    boot_id="b",
    agent_version="0.1.0",
    started=900.0,
    pid=1,
    broker="none",
    broker_connected=False,
    revision_seen=0,
    revision_applied=0,
    power_cap_w=None,
    power_w=None,
    http=None,
    models=(MODEL,),
    bindings=(BOUND,),
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "state" / "snapshot.json"
    snapshot.write(path, SNAPSHOT)
    snapshot.write(path, replace(SNAPSHOT, time=1001.0))
    assert snapshot.read(path) == to_jsonable(replace(SNAPSHOT, time=1001.0))
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_snapshot_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "snapshot.json"
    snapshot.write(path, SNAPSHOT)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StoreError, match="No space left"):
        snapshot.write(path, replace(SNAPSHOT, time=2000.0))
    assert snapshot.read(path)["time"] == 1000.0
    assert list(tmp_path.iterdir()) == [path]


def test_none_yet(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="not run here yet"):
        snapshot.read(tmp_path / "snapshot.json")


def _without(key: str) -> bytes:
    value = to_jsonable(SNAPSHOT)
    del value[key]
    return json.dumps(value).encode()


def _with(**changes: Any) -> bytes:
    return json.dumps({**to_jsonable(SNAPSHOT), **changes}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 100,
        json.dumps(to_jsonable(SNAPSHOT)).encode()[:-20],
        b"[" * 100_000,
        b"[]",
        _without("models"),
        _with(time="yesterday"),
        _with(started=True),
        _with(models={}),
        _with(models=["digits"]),
        _with(models=[{"name": "digits"}]),
        _with(models=[{**to_jsonable(MODEL), "candidate": "cpu"}]),
        _with(bindings=None),
        _with(bindings=[{**to_jsonable(BOUND), "binding": "s/a"}]),
        b" " * (snapshot.MAX_BYTES + 1),
    ],
)
def test_a_damaged_snapshot_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "snapshot.json"
    path.write_bytes(data)
    with pytest.raises(ControlError, match="damaged"):
        snapshot.read(path)
