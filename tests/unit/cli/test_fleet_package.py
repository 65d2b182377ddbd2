"""The operator's package commands, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.cli import build_parser, main
from agent.paths import read_toml
from tests.unit.fleet.models import make_folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OVERLAID_FLEET", str(tmp_path / "fleet"))
    return tmp_path / "fleet"


def fleet(capsys: pytest.CaptureFixture[str], *args: object, code: int = 0) -> str:
    """Standard output of a command that ends with ``code``; its error output when that is not 0."""
    assert main(["fleet", *map(str, args)]) == code
    captured = capsys.readouterr()
    return captured.err if code else captured.out


def value(capsys: pytest.CaptureFixture[str], *args: object) -> Any:
    return json.loads(fleet(capsys, *args, "--json"))


def test_from_an_empty_folder_to_a_published_package(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "keys new packages" in fleet(capsys, "init", "--site", "lab", "--broker", "localhost:1883")
    key = value(capsys, "keys", "new", "packages")
    model, out = make_folder(tmp_path / "model"), tmp_path / "out"
    packed = value(capsys, "pack", model, "-o", out)
    assert packed["key"] == key["id"]
    assert packed["checked"]["fp32"]["backend"] == "onnxruntime"
    published = value(capsys, "publish", out)
    assert published["digest"] == packed["digest"]
    assert value(capsys, "packages") == [published]
    assert "fp32" in fleet(capsys, "packages")


def test_the_table_of_pack_says_what_was_not_checked(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet(capsys, "keys", "new", "ci")
    model = make_folder(tmp_path / "model")
    text = fleet(
        capsys, "pack", model, "-o", tmp_path / "out", "--key", "ci", "--no-check", "--block-kib", 64
    )
    assert "not checked" in text
    assert "signed by ci" in text


def test_keys_are_shown_as_the_nodes_config_wants_them(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = value(capsys, "keys", "new", "commands")
    assert value(capsys, "keys", "show", "commands") == made
    text = fleet(capsys, "keys", "show", "commands")
    (home / "node.toml").write_text(text[text.index("[trust]") :])
    assert read_toml(home / "node.toml") == {"trust": {"command_keys": [made["public"]]}}
    assert value(capsys, "keys", "list") == [made]
    assert made["id"] in fleet(capsys, "keys", "list")
    assert "PRIVATE" not in text


def test_init_keeps_what_is_there_and_makes_paths_absolute(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    options = [
        "--username",
        "op",
        "--password-file",
        "pw",
        "--ca",
        "ca.pem",
        "--cert",
        "c.pem",
        "--key",
        "k.pem",
    ]
    fleet(capsys, "init", "--site", "lab", "--broker", "broker.lan", *options)
    mqtt = read_toml(home / "fleet.toml")["mqtt"]
    assert mqtt["port"] == 8883
    assert mqtt["password_file"] == str(tmp_path / "pw")
    error = fleet(capsys, "init", "--site", "other", "--broker", "x", code=1)
    assert "--force" in error
    assert "UsageError" in error
    fleet(capsys, "init", "--site", "other", "--broker", "x:1", "--force")


def test_home_may_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fleet(capsys, "keys", "new", "packages", "--home", tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "keys" / "packages.pem").exists()


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("pack", "nowhere", "-o", "out"), "overlaid fleet keys new packages"),
        (("publish", "nowhere"), "is not a package"),
        (("keys", "show", "packages"), "overlaid fleet keys new packages"),
        (("keys", "new", "Two Words"), "a-z"),
        (("init", "--site", "lab", "--broker", "host:port"), "HOST:PORT"),
        (("init", "--site", "The Lab", "--broker", "host"), "fleet.site"),
    ],
)
def test_what_cannot_be_done_is_one_line_with_the_way_out(
    home: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], named: str
) -> None:
    error = fleet(capsys, *args, code=1)
    assert named in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("size", ["0", "257", "x", "-1", "²"])
def test_block_sizes_are_bounded(size: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["fleet", "pack", "model", "-o", "out", f"--block-kib={size}"])
    assert caught.value.code == 2


@pytest.mark.parametrize(
    "command",
    [
        ("init",),
        ("keys",),
        ("keys", "new"),
        ("keys", "show"),
        ("keys", "list"),
        ("pack",),
        ("publish",),
        ("packages",),
    ],
)
def test_help_has_an_example(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(["fleet", *command, "--help"])
    assert caught.value.code == 0
    assert "example: overlaid fleet " + command[0] in capsys.readouterr().out
