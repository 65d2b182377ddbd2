"""Roots of other architectures, whose programs qemu runs: binfmt_misc asked by hand, since no systemd does it here."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.nspawn.rootfs import PATH, NoRoot

BINFMT = Path("/proc/sys/fs/binfmt_misc")
RULES = Path("/usr/lib/binfmt.d")  # of qemu-user-static
QEMU = {"arm64": "qemu-aarch64", "armhf": "qemu-arm"}


def missing(architecture: str) -> str:
    """Why its programs cannot be run here, "" when they can."""
    if not (RULES / f"{QEMU[architecture]}.conf").exists():
        return "qemu-user-static is missing: apt-get install qemu-user-static"
    if "binfmt_misc" not in Path("/proc/filesystems").read_text():
        return "this kernel has no binfmt_misc"
    return ""


@contextmanager
def binfmt(architecture: str) -> Iterator[None]:
    """The kernel hands the architecture's programs to qemu meanwhile. What was there before stays."""
    mounted = (BINFMT / "register").exists()
    if not mounted:
        _run("mount", "-t", "binfmt_misc", "binfmt_misc", str(BINFMT))
    rule = BINFMT / QEMU[architecture]
    registered = rule.exists()
    try:
        if not registered:
            # The rules hold the flag F: qemu is opened now, so roots need no copy of it.
            (BINFMT / "register").write_bytes((RULES / f"{QEMU[architecture]}.conf").read_bytes().strip())
        yield
    finally:
        if not registered and rule.exists():
            rule.write_text("-1")
        if not mounted:
            _run("umount", str(BINFMT))


def command_in(root: Path, script: str) -> list[str]:
    """A shell script in the root with a /proc, and processes that end with it."""
    words = [
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        f"--mount-proc={root}/proc",
        "chroot",
        str(root),
    ]
    environment = [f"PATH={PATH}", "LC_ALL=C.UTF-8", "HOME=/root", "DEBIAN_FRONTEND=noninteractive"]
    return ["env", "-i", *environment, *words, "sh", "-euc", script]


def run_in(root: Path, script: str, timeout_s: float = 900.0) -> subprocess.CompletedProcess[str]:
    """Its output, with that of an exit code that is not 0 as well."""
    return subprocess.run(
        command_in(root, script), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=timeout_s, check=False,
    )  # fmt: skip


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 0:
        raise NoRoot(f"{' '.join(command)}: {done.stderr.strip()}")
