from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.doctor.disk import TMP, Disk, judge, look
from tests.unit.doctor.nodes import node, only, wrong

STATE = Path("/var/lib/overlaid")
ROOT = Path("/")
MIB, GIB = 1 << 20, 1 << 30


def test_much_space_is_fine() -> None:
    assert not wrong(judge([Disk(STATE, ROOT, 8 * GIB, 4 * GIB, 100_000), Disk(TMP, ROOT, 8 * GIB, 4 * GIB)]))


@pytest.mark.parametrize(
    ("disk", "level", "what"),
    [
        (Disk(STATE, ROOT, 8 * GIB, 8 * MIB), "problem", "/var/lib/overlaid is full"),
        (Disk(STATE, ROOT, 8 * GIB, 100 * MIB), "warning", "/var/lib/overlaid is almost full"),
        (Disk(TMP, TMP, 64 * MIB, 20 * MIB), "warning", "/tmp is almost full"),
        (Disk(TMP, TMP, 64 * MIB, 0), "problem", "/tmp is full"),
        (Disk(STATE, ROOT, 8 * GIB, 4 * GIB, 12), "problem", "only 12 more files"),
        (Disk(STATE, ROOT, 8 * GIB, 4 * GIB, 10**6, read_only=True), "problem", "read-only"),
    ],
)
def test_little_space_is_told_with_what_takes_it(disk: Disk, level: str, what: str) -> None:
    found = only(judge([disk]))

    assert (found.level, what in found.what) == (level, True)
    assert str(disk.mount) in found.mend


def test_the_disk_is_found_before_the_state_folder_is_there(tmp_path: Path) -> None:
    subject = node(tmp_path)

    disks = look(subject)

    assert [disk.path for disk in disks] == [subject.folders.state, TMP]
    assert all(0 <= disk.free <= disk.total and disk.mount.is_mount() for disk in disks)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MiB."""
    folder = tmp_path / "state"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], check=False)
    if done.returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a disk needs root")
def test_a_real_disk_that_fills_up(tmp_path: Path, small: Path) -> None:
    subject = node(tmp_path)
    [almost] = [finding for finding in judge(look(subject)) if str(small) in finding.what]
    assert almost.level == "warning"

    (small / "large").write_bytes(b"\0" * (16 * MIB))
    [full] = [finding for finding in judge(look(subject)) if str(small) in finding.what]
    assert full.level == "problem" and str(small) in full.mend

    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    [fixed] = [finding for finding in judge(look(subject)) if str(small) in finding.what]
    assert "read-only" in fixed.what
