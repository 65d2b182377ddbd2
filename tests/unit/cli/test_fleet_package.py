"""The operator's package commands, as they are typed."""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.cli import build_parser, main
from agent.errors import ManifestError
from agent.fleet.source import ModelFolder
from agent.paths import read_toml
from tests.unit.fleet.models import MODEL_TOML, make_folder, onnx_bytes, weights

NOBODY = 65_534


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
    text = fleet(capsys, "init", "--site", "lab", "--broker", "localhost:1883")
    assert text.endswith("next: overlaid fleet keys new commands; overlaid fleet repo init\n")
    fleet(capsys, "repo", "init")
    model, out = make_folder(tmp_path / "model"), tmp_path / "out"
    packed = value(capsys, "pack", model, "-o", out)
    assert packed["checked"]["fp32"]["backend"] == "onnxruntime"
    published = value(capsys, "publish", out)
    assert published["digest"] == packed["digest"]
    assert [published.pop(key) for key in ("delta", "team", "problem")] == [None, "packages", None]
    assert (out / "metadata" / "timestamp.json").exists()
    assert value(capsys, "packages") == [published]
    assert "fp32" in fleet(capsys, "packages")


def test_publishing_tells_what_is_new_against_the_version_before(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet(capsys, "repo", "init")
    for version, name in (("1.0.0", "w"), ("1.1.0", "renamed")):
        toml = MODEL_TOML.replace("1.0.0", version)
        fleet(
            capsys,
            "pack",
            make_folder(tmp_path / version, toml, net=onnx_bytes(weights(), name)),
            "-o",
            tmp_path / name,
        )
    assert "delta" not in fleet(capsys, "publish", tmp_path / "w")
    assert re.search(
        r"^delta: 0 KB of 9 KB are new against 1\.0\.0, and a manifest of \d KB$",
        fleet(capsys, "publish", tmp_path / "renamed"),
        re.MULTILINE,
    )
    delta = value(capsys, "publish", tmp_path / "renamed")["delta"]
    assert delta["against"] == "1.0.0"
    assert 0 < delta["new_bytes"] < 300 < delta["manifest_bytes"] < delta["size"]


def test_the_table_of_pack_says_what_was_not_checked(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_folder(tmp_path / "model")
    text = fleet(capsys, "pack", model, "-o", tmp_path / "out", "--no-check", "--block-kib", 64)
    assert "not checked" in text


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
    for name in ("pw", "ca.pem", "c.pem", "k.pem"):
        (tmp_path / name).write_text("x")
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
    error = fleet(capsys, "init", "--site", "other", "--broker", "x", code=2)
    assert "--force" in error
    assert "UsageError" in error
    made = value(capsys, "init", "--site", "other", "--broker", "x:1", "--force")
    assert made == {"settings": str(home / "fleet.toml"), "site": "other", "host": "x", "port": 1}


@pytest.mark.parametrize("option", ["--password-file", "--ca", "--cert", "--key"])
@pytest.mark.parametrize("content", [None, ""])
def test_init_refuses_files_that_are_not_there_or_empty(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, content: str | None
) -> None:
    file = tmp_path / "file"
    if content is not None:
        file.write_text(content)
    error = fleet(capsys, "init", "--site", "lab", "--broker", "b", option, file, code=2)
    assert f"{option} {file}: " in error
    assert not home.exists()


def test_home_may_be_given_and_is_then_in_the_next_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = ("--home", tmp_path / "elsewhere")
    fleet(capsys, "keys", "new", "commands", *named)
    assert (tmp_path / "elsewhere" / "keys" / "commands.pem").exists()
    next_step = f"overlaid fleet repo init --home {named[1]}\n"
    init = fleet(capsys, "init", "--site", "lab", "--broker", "localhost:1", *named)
    assert init.endswith("next: " + next_step)
    assert next_step in fleet(capsys, "repo", "status", *named, code=1)
    budget = ("--latency-p99", "20ms", "--rate", "1/s", "--node", "cam-7")
    error = fleet(capsys, "deploy", "digits@1", *budget, *named, code=1)
    assert f"overlaid fleet publish OUT --home {named[1]}" in error


@contextmanager
def another_user(home: Path) -> Iterator[None]:
    """Run as somebody to whom the operator's folder is closed."""
    home.chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        home.chmod(0o700)


@pytest.mark.parametrize(
    "command",
    [
        ("status",),
        ("serve",),
        ("watch",),
        ("keys", "list"),
        ("keys", "show", "packages"),
        ("keys", "new", "more"),
        ("packages",),
        ("repo", "status"),
        ("repo", "init"),
        ("repo", "sign"),
        ("init", "--site", "lab", "--broker", "localhost:1", "--force"),
        ("rollback", "--node", "cam-7"),
    ],
)
def test_another_user_is_told_which_file_and_what_to_do(
    home: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    fleet(capsys, "init", "--site", "lab", "--broker", "localhost:1")
    fleet(capsys, "keys", "new", "commands")
    fleet(capsys, "repo", "init")
    (home / "packages" / "index").mkdir(parents=True)
    read_toml(home / "fleet.toml")  # what is imported late may be closed to the other user as well
    for module in ("cli.bar", "fleet.actions", "fleet.repo.publish", "fleet.service"):
        importlib.import_module(f"agent.{module}")
    with another_user(home):
        error = fleet(capsys, *command, code=1)
    assert str(home) in error and "this user (uid" in error and "must be able to" in error
    assert "Errno" not in error and error.count("\n") == 1


def test_a_model_file_of_another_user_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    folder = ModelFolder(make_folder(tmp_path / "model"))
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ManifestError, match=r"net\.onnx: Permission denied; this user \(uid"):
        folder.file("net.onnx")


@pytest.mark.parametrize(
    ("command", "said"), [("pack", "out was not made"), ("publish", "nothing was published")]
)
def test_an_interrupted_command_says_what_was_undone(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    command: str, said: str,
) -> None:  # fmt: skip
    fleet(capsys, "repo", "init")
    model, out = make_folder(tmp_path / "model"), tmp_path / "out"
    args: tuple[object, ...] = ("pack", model, "-o", out, "--no-check")
    if command == "publish":
        fleet(capsys, *args)
        args = ("publish", out)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(
        f"agent.fleet.{'pack.parse_manifest' if command == 'pack' else 'repository.check_block'}", interrupt
    )
    error = fleet(capsys, *args, code=130)
    assert error.startswith("interrupted; ") and said in error and error.count("\n") == 1
    assert out.exists() == (command == "publish")
    assert value(capsys, "packages") == []


@pytest.mark.parametrize(
    ("args", "named", "code"),
    [
        (("pack", "nowhere", "-o", "out"), "nowhere", 1),
        (("publish", "nowhere"), "is not a package", 1),
        (("keys", "show", "packages"), "overlaid fleet keys new packages", 1),
        (("keys", "new", "Two Words"), "a-z", 2),
        (("init", "--site", "lab", "--broker", "host:port"), "HOST:PORT", 2),
        (("init", "--site", "lab", "--broker", "foo bar"), "is not HOST:PORT", 2),
        (("init", "--site", "The Lab", "--broker", "host"), "fleet.site", 2),
    ],
)
def test_what_cannot_be_done_is_one_line_with_the_way_out(
    home: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], named: str, code: int
) -> None:
    error = fleet(capsys, *args, code=code)
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
