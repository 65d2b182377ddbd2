from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from agent.errors import StoreError, TrustError, UsageError
from agent.fleet.home import Home
from agent.fleet.keys import list_keys, load_file, load_key, make_key, new_key, trust_lines
from agent.trust import PublicKey


def test_a_new_key_is_the_owners_alone_and_signs(tmp_path: Path) -> None:
    home = Home(tmp_path / "fleet")
    made = new_key(home, "packages")
    path = home.keys / "packages.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().startswith("-----BEGIN PRIVATE KEY-----")
    made.public.verify(load_key(home, "packages").sign(b"text"), b"text")
    assert list(home.keys.iterdir()) == [path]


def test_a_key_is_never_replaced(tmp_path: Path) -> None:
    home = Home(tmp_path)
    first = new_key(home, "packages")
    with pytest.raises(UsageError, match="never replaced"):
        new_key(home, "packages")
    assert list_keys(home) == [first]


def test_keys_are_listed_by_name(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert list_keys(home) == []
    new_key(home, "packages")
    new_key(home, "commands")
    assert [key.name for key in list_keys(home)] == ["commands", "packages"]


def test_only_the_key_of_commands_goes_into_the_nodes_config(tmp_path: Path) -> None:
    home = Home(tmp_path)
    commands, other = (new_key(home, name) for name in ("commands", "packages"))
    assert trust_lines(commands) == [f'command_keys = ["{commands.public}"]']
    assert trust_lines(other) == []
    assert PublicKey.parse(str(other.public)) == other.public


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_stick_without_hard_links_has_keys_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "stick" / "root-1.pem"
    made = make_key(path)
    assert load_file(path).public == made.public
    with pytest.raises(UsageError, match="never replaced"):
        make_key(path)
    assert load_file(path).public == made.public and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["../packages", "Packages", "", "a b"])
def test_names_are_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="key"):
        new_key(Home(tmp_path), name)
    with pytest.raises(UsageError, match="key"):
        load_key(Home(tmp_path), name)


def test_a_key_that_is_not_there_or_not_a_key(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with pytest.raises(TrustError, match="overlaid fleet keys new packages"):
        load_key(home, "packages")
    new_key(home, "packages")
    (home.keys / "packages.pem").write_text("nonsense")
    with pytest.raises(TrustError, match=r"packages\.pem"):
        load_key(home, "packages")
    with pytest.raises(TrustError, match=r"packages\.pem"):
        list_keys(home)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a file")
    with pytest.raises(StoreError, match="keys"):
        new_key(Home(tmp_path), "packages")
