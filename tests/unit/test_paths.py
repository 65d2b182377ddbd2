"""The light way to the node's folders agrees with the whole configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent import paths
from agent.config import load_config
from agent.errors import ConfigError
from agent.paths import find_folders


@pytest.mark.parametrize(
    ("toml", "environ"),
    [
        ("", {}),
        ('[paths]\nstate = "/a"\nruntime = "/b"\n', {}),
        ('[paths]\nstate = "/a"\n', {"OVERLAID_PATHS_RUNTIME": "/r", "OVERLAID_PATHS_STATE": "/s"}),
        ('[node]\nname = "n1"\n', {"OVERLAID_PATHS_STATE": "relative"}),
    ],
)
def test_both_give_the_same_folders(tmp_path: Path, toml: str, environ: dict[str, str]) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(toml)
    for path, variables in ((file, environ), (None, {**environ, "OVERLAID_CONFIG": str(file)})):
        light, whole = find_folders(path, variables), load_config(path, variables).paths
        assert (light.state, light.runtime) == (whole.state, whole.runtime)


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(paths, "SYSTEM_CONFIG", tmp_path / "none.toml")
    assert find_folders(None, {"OVERLAID_CONFIG": ""}) == find_folders(None, {})


def test_a_file_that_another_user_owns_is_named_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(
        ConfigError, match=r"agent\.toml: Permission denied; this user \(uid \d+\) must be able"
    ):
        find_folders(tmp_path / "agent.toml", {})


@pytest.mark.parametrize("toml", ["paths = 5", "[paths]\nstate = 5", "not toml", "\x00"])
def test_what_is_wrong_is_named(tmp_path: Path, toml: str) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(toml)
    with pytest.raises(ConfigError, match=r"agent\.toml"):
        find_folders(file, {})


def test_a_system_file_that_may_not_be_read_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "SYSTEM_CONFIG", tmp_path / ("x" * 300))
    with pytest.raises(ConfigError, match="cannot read"):
        find_folders(None, {})
    monkeypatch.setattr(paths, "SYSTEM_CONFIG", tmp_path / "none.toml")
    assert find_folders(None, {"OVERLAID_PATHS_STATE": "/s"}).state == Path("/s")
