"""The files of systemd/, installed into a tree as systemd/README.md says and judged by systemd's own tools."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
README = REPO / "systemd" / "README.md"
UNIT = "etc/systemd/system/overlaid.service"
DROP_INS = ("gpu", "jetson", "pmic", "shared-memory")

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is missing: sudo apt-get install systemd"
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="giving files to other users needs root")


def install(root: Path) -> None:
    """Do the README's `install` lines below ``root``, with a program where its virtual environment would be."""
    lines = re.findall(r"^sudo install -D (.+)$", README.read_text(), flags=re.MULTILINE)
    for _, mode, source, target in map(shlex.split, lines):
        copy(REPO / source, root / target.lstrip("/"), int(mode, 8))
    [venv] = re.findall(r"^sudo python3 -m venv (\S+)$", README.read_text(), flags=re.MULTILINE)
    program = root / venv.lstrip("/") / "bin" / "overlaid"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)


def copy(source: Path, target: Path, mode: int = 0o644) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(mode)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root with the installed files and the targets and slices of this machine's systemd."""
    root = tmp_path / "root"
    units = next(p for p in (Path("/usr/lib/systemd/system"), Path("/lib/systemd/system")) if p.is_dir())
    for pattern in ("*.target", "*.slice"):
        for unit in units.glob(pattern):
            copy(unit, root / "usr/lib/systemd/system" / unit.name)
    install(root)
    return root


def run(*command: str | Path) -> tuple[int, str]:
    """Exit status and all output."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout


def verify(root: Path) -> tuple[int, str]:
    return run("systemd-analyze", "verify", f"--root={root}", "overlaid.service")


def test_the_unit_is_clean(tree: Path) -> None:
    assert verify(tree) == (0, "")


def drop_in(tree: Path, name: str) -> None:
    copy(REPO / f"systemd/overlaid-{name}.conf", tree / f"etc/systemd/system/overlaid.service.d/{name}.conf")


@pytest.mark.parametrize("name", DROP_INS)
def test_the_unit_with_a_drop_in_is_clean(tree: Path, name: str) -> None:
    drop_in(tree, name)
    assert verify(tree) == (0, "")


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("KillMode=", "KillMood=", "Unknown key"),
        ("KillMode=mixed", "KillMode=mixd", "kill mode"),
        ("=/opt/overlaid/bin/", "=/opt/elsewhere/", "/opt/elsewhere/overlaid"),
    ],
)
def test_verify_would_see_a_mistake(tree: Path, before: str, after: str, complaint: str) -> None:
    unit = tree / UNIT
    unit.write_text(unit.read_text().replace(before, after))
    assert complaint in verify(tree)[1]


@pytest.mark.parametrize("names", [(), *((name,) for name in DROP_INS), DROP_INS], ids=str)
def test_exposure_is_at_most_1_5(tree: Path, names: tuple[str, ...]) -> None:
    for name in names:
        drop_in(tree, name)
    rc, output = run(
        "systemd-analyze", "security", "--offline=yes", "--threshold=15", "--no-pager", f"--root={tree}",
        "overlaid.service",
    )  # fmt: skip
    assert rc == 0, output


def accounts(root: Path, file: str) -> dict[str, list[str]]:
    rows = [line.split(":") for line in (root / "etc" / file).read_text().splitlines()]
    return {row[0]: row[1:] for row in rows}


@needs_root
def test_sysusers_makes_the_user_without_login(tree: Path) -> None:
    rc, output = run("systemd-sysusers", f"--root={tree}", tree / "etc/sysusers.d/overlaid.conf")
    assert rc == 0, output
    user, groups = accounts(tree, "passwd")["overlaid"], accounts(tree, "group")
    assert user[4] == "/var/lib/overlaid"
    assert user[5].endswith("nologin")
    assert 0 < int(user[1]) < 1000
    assert [groups[name][2] for name in ("render", "video")] == ["overlaid", "overlaid"]


@needs_root
def test_tmpfiles_keeps_secrets_for_the_daemon(tree: Path) -> None:
    secrets = [tree / "etc/overlaid/mqtt.password", tree / "etc/overlaid/pki/node.key"]
    for path in secrets:
        path.parent.mkdir(exist_ok=True)
        path.write_text("secret")
        path.chmod(0o644)
    assert run("systemd-sysusers", f"--root={tree}", tree / "etc/sysusers.d/overlaid.conf")[0] == 0
    rc, output = run("systemd-tmpfiles", f"--root={tree}", "--create", tree / "etc/tmpfiles.d/overlaid.conf")
    assert (rc, output) == (0, "")
    uid = int(accounts(tree, "passwd")["overlaid"][1])
    gid = int(accounts(tree, "group")["overlaid"][1])

    def rights(path: Path) -> tuple[int, int, int]:
        info = path.stat()
        return stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid

    assert rights(tree / "etc/overlaid") == (0o750, 0, gid)
    assert rights(tree / "etc/overlaid/agent.toml") == (0o640, 0, gid)
    assert [rights(path) for path in secrets] == [(0o400, uid, gid)] * 2
