from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.config import Config
from agent.doctor.trust import Root, judge, look, parse
from agent.trust import PrivateKey
from tests.unit.doctor.nodes import node, wrong

NOW = 1_790_000_000.0
KEY = str(PrivateKey.generate().public)


def metadata(**signed: Any) -> bytes:
    return json.dumps({"signed": {"_type": "root", "expires": "2027-01-01T00:00:00Z"} | signed}).encode()


def with_root(path: Path | None) -> Any:
    """A configuration whose trust has a root."""
    kind = type("Trust", (SimpleNamespace,), {"model_fields": {"root": None, "command_keys": None}})
    return SimpleNamespace(mqtt=object(), trust=kind(root=path, command_keys=(KEY,)))


def judged(tmp_path: Path, config: Any) -> list[tuple[str, str]]:
    found = wrong(judge(look(config), config, node(tmp_path), NOW))
    return [(finding.level, finding.what) for finding in found]


def test_a_node_that_obeys_nobody_is_told(tmp_path: Path) -> None:
    config = Config.model_validate_json('{"mqtt": {"host": "b"}}')

    found = wrong(judge(None, config, node(tmp_path, "[trust]\n"), NOW))

    assert "obeys nobody" in found[0].what
    assert "overlaid fleet keys show" in found[0].mend and "command_keys =" in found[0].mend


def test_without_a_broker_no_commands_come_but_packages_still_need_a_signer(tmp_path: Path) -> None:
    [finding] = wrong(judge(None, Config(), node(tmp_path), NOW))

    assert "trust.root is not set" in finding.what


def test_a_root_that_holds_is_fine(tmp_path: Path) -> None:
    (tmp_path / "root.json").write_bytes(metadata())

    assert not judged(tmp_path, with_root(tmp_path / "root.json"))


def test_a_root_that_is_missing_or_not_set_is_told(tmp_path: Path) -> None:
    [(level, what)] = judged(tmp_path, with_root(tmp_path / "root.json"))
    assert level == "problem" and "No such file" in what

    [(level, what)] = judged(tmp_path, with_root(None))
    assert level == "warning" and "trust.root is not set" in what


def test_a_root_that_has_expired_is_told(tmp_path: Path) -> None:
    (tmp_path / "root.json").write_bytes(metadata(expires="2026-01-01T00:00:00Z"))

    [(level, what)] = judged(tmp_path, with_root(tmp_path / "root.json"))

    assert level == "warning" and "expired on 2026-01-01" in what


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        metadata(_type="snapshot"),
        metadata(expires=7),
        metadata(expires="x"),
        b"[" * 99_999,
        b"\xff",
    ],
)
def test_what_is_no_root_is_damaged(data: bytes) -> None:
    assert parse(Path("root.json"), data).fault == "damaged"


def test_a_root_that_this_user_may_not_read_was_not_checked(tmp_path: Path) -> None:
    root = Root(tmp_path / "root.json", "denied", "Permission denied")

    [found] = wrong(judge(root, with_root(root.path), node(tmp_path), NOW))

    assert found.level == "unknown" and "sudo" in found.mend
