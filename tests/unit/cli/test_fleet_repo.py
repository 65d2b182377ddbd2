"""``overlaid fleet repo``, as it is typed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.cli import build_parser, main
from agent.fleet.home import Home
from agent.fleet.repo import Repo, repo
from agent.package import disk
from tests.unit.cli.test_fleet_package import fleet, home, value
from tests.unit.fleet.repo.desk import DAY
from tests.unit.package.samples import sample

__all__ = ["home"]  # the fixture


@pytest.fixture
def made(home: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    fleet(capsys, "repo", "init")
    return home


def test_init_says_what_goes_where(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = fleet(capsys, "repo", "init", "--offline", tmp_path / "stick", "--team", "vision")
    assert {path.name for path in (tmp_path / "stick").iterdir()} == {
        "root-1.pem", "root-2.pem", "root-3.pem", "targets.pem",
    }  # fmt: skip
    assert f"copy {home}/repo/root.json to each node" in text and '[trust] root = "/etc' in text
    assert f"move {tmp_path}/stick to a safe place" in text and "PRIVATE" not in text
    assert "there is a repository" in fleet(capsys, "repo", "init", code=2)
    assert value(capsys, "repo", "status")["roles"][2]["role"] == "vision"


def test_publish_and_repo_add_are_one(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = sample().write(tmp_path / "out")
    added = value(capsys, "repo", "add", out)
    assert added == value(capsys, "publish", out)
    assert (added["name"], added["team"]) == ("net", "packages")
    assert "signed by packages" in fleet(capsys, "repo", "add", out)
    timestamp = (out / "metadata" / "timestamp.json").read_bytes()
    assert timestamp == (made / "repo" / "metadata" / "timestamp.json").read_bytes()
    other = sample(weights=b"v" * 5000).write(tmp_path / "other")
    assert "raise version in model.toml" in fleet(capsys, "repo", "add", other, code=1)


def test_a_package_folder_that_cannot_be_written_is_published_all_the_same(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path, _: object) -> None:
        raise disk.store_error(folder, OSError(30, "Read-only file system"))

    out = sample().write(tmp_path / "out")
    monkeypatch.setattr(repo, "write_folder", refuse)
    text = fleet(capsys, "publish", out)
    assert "published net@1.0.0" in text and "has no metadata: " in text and "Read-only" in text
    assert value(capsys, "repo", "status")["targets"] == 1


def test_teams_are_told_apart(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = fleet(capsys, "repo", "delegate", "vision", "net/*")
    assert f"made {made}/keys/vision.pem" in text and "published 2.targets.json" in text
    out = sample().write(tmp_path / "out")
    error = fleet(capsys, "publish", out, "--team", "packages", code=2)
    assert "net is signed by team vision, whose pattern net/* matches, not by packages" in error
    assert value(capsys, "packages") == [] and not list((made / "packages").glob("blocks/*"))
    assert value(capsys, "publish", out, "--team", "vision")["team"] == "vision"
    assert "overlaps with net/*" in fleet(capsys, "repo", "delegate", "audio", "n*/*", code=2)


def test_a_lost_root_key_is_replaced_stick_by_stick(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("root-1", "root-3"):
        (tmp_path / name).mkdir()
        (made / "offline" / f"{name}.pem").rename(tmp_path / name / f"{name}.pem")
    (made / "offline" / "root-2.pem").unlink()
    error = fleet(capsys, "repo", "rotate", "root", "--lost", "root-2", code=1)
    assert "needs root-1.pem or root-3.pem, which is not here" in error and "--offline DIR" in error
    text = fleet(capsys, "repo", "rotate", "root", "--lost", "root-2", "--offline", tmp_path / "root-1")
    assert "nothing was published" in text
    assert "next: root 2 waits for 1 more of: root-3.pem: overlaid fleet repo sign --offline DIR" in text
    assert "staged: root 2 waits" in fleet(capsys, "repo", "status")
    outcome = value(
        capsys, "repo", "sign", "--offline", tmp_path / "root-3", "--offline", tmp_path / "root-1"
    )
    assert outcome["published"] == ["2.root.json"] and outcome["waiting"] == []
    assert "nothing was published" in fleet(capsys, "repo", "sign")
    text = fleet(capsys, "repo", "rotate", "packages")
    assert f"made {made}/keys/packages.2.pem" in text
    assert "sign nothing any more, remove them wherever they are: packages.pem" in text


def test_status_shows_roles_and_ends_with_1_when_something_has_expired(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = fleet(capsys, "repo", "status")
    assert f"{made}/repo/root.json: 0 packages" in text and "2 of root-1, root-2, root-3" in text
    assert "next: let nodes install a package: overlaid fleet publish OUT" in text
    status = value(capsys, "repo", "status")
    assert set(status) == {"root", "roles", "staged", "targets", "next", "expired"} and not status["expired"]
    assert set(status["roles"][0]) == {
        "role", "version", "expires", "days", "due", "threshold", "keys", "patterns", "targets",
    }  # fmt: skip
    ids = {key["name"]: key["id"] for role in status["roles"] for key in role["keys"]}
    assert all(ids[key["name"]] == key["id"] for key in value(capsys, "keys", "list"))

    old = tmp_path / "old"
    Repo(Home(old), lambda: time.time() - 400 * DAY).init()
    assert main(["fleet", "repo", "status", "--home", str(old)]) == 1
    text = capsys.readouterr().out
    assert "EXPIRED" in text and "root has expired, nodes install nothing new; renew it" in text


@pytest.mark.parametrize(
    "command", [(), ("init",), ("add",), ("delegate",), ("sign",), ("rotate",), ("status",)]
)
def test_help_has_an_example(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(["fleet", "repo", *command, "--help"])
    assert caught.value.code == 0
    assert "example: overlaid fleet repo" in capsys.readouterr().out


@pytest.mark.parametrize(
    "args", [("fleet", "--help"), ("fleet", "repo", "rotate", "--help"), ("fleet", "packages"), ("status",)]
)
def test_commands_that_sign_nothing_do_not_wait_for_tuf(args: tuple[str, ...], tmp_path: Path) -> None:
    code = (
        "import sys\nfrom agent.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "assert not {'tuf', 'securesystemslib', 'rich'} & set(sys.modules)\nprint('quick')"
    )
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )
    assert done.stdout.endswith("quick\n"), done.stderr


def test_serve_reads_files_without_tuf() -> None:
    code = "import sys\nimport agent.fleet.service, agent.fleet.repo.store\nassert 'tuf' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
