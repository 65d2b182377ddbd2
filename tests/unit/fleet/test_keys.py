from __future__ import annotations

import stat
from pathlib import Path

import pytest

from agent.errors import StoreError, TrustError, UsageError
from agent.fleet.home import Home
from agent.fleet.keys import list_keys, load_key, new_key, public_keys, trust_lines
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


def test_keys_are_listed_by_name_and_trusted_by_id(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert list_keys(home) == []
    keys = [new_key(home, name) for name in ("packages", "commands")]
    assert [key.name for key in list_keys(home)] == ["commands", "packages"]
    assert set(public_keys(home)) == {key.public.id for key in keys}


def test_trust_lines_go_into_the_nodes_config(tmp_path: Path) -> None:
    home = Home(tmp_path)
    packages, commands, other = (new_key(home, name) for name in ("packages", "commands", "ci"))
    assert trust_lines(packages) == [f'package_keys = ["{packages.public}"]']
    assert trust_lines(commands) == [f'command_keys = ["{commands.public}"]']
    assert len(trust_lines(other)) == 2
    assert PublicKey.parse(str(other.public)) == other.public


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
        public_keys(home)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a file")
    with pytest.raises(StoreError, match="keys"):
        new_key(Home(tmp_path), "packages")
