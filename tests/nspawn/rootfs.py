"""Debian roots to boot from: made once by debootstrap, kept in the user's cache, never written to again."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SUITE = "bookworm"
BASE = ("systemd", "systemd-sysv", "dbus", "udev", "python3", "passwd", "iproute2", "procps", "libstdc++6")
TOOLS = ("debootstrap", "systemd-nspawn", "nsenter", "unshare", "mkfs.ext4", "ip", "dpkg-deb")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BOOTSTRAP_TIMEOUT_S = 1800


class NoRoot(Exception):
    """There is no such root and none could be made; the text says why."""


@functools.cache
def hindrance(*more: str) -> str:
    """Why nothing can be booted here, "" when it can; ``more``: further programs that are needed."""
    if not sys.platform.startswith("linux"):
        return "it takes Linux"
    if os.geteuid() != 0:
        return "booting a Debian takes root"
    absent = [tool for tool in (*TOOLS, *more) if shutil.which(tool, path=PATH) is None]
    if absent:
        return f"{', '.join(absent)}: not here (apt-get install debootstrap systemd-container iproute2)"
    probe = subprocess.run(
        ["unshare", "--mount", "--net", "--pid", "--fork", "true"], capture_output=True, check=False
    )
    if probe.returncode != 0:
        return f"this machine lets root make no namespaces: {probe.stderr.decode().strip()}"
    return ""


def cache() -> Path:
    """Where roots are kept between runs."""
    home = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(home) if home else Path.home() / ".cache") / "overlaid-test"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def base_root(packages: tuple[str, ...] = BASE, architecture: str = "amd64") -> Path:
    """A root of this architecture with these packages (and Debian's smallest system). Raises NoRoot."""
    text = "\n".join((SUITE, architecture, *packages))
    root = cache() / f"{SUITE}-{architecture}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if not root.is_dir():
        with tempfile.TemporaryDirectory(dir=cache(), prefix="making-") as folder:
            fresh = Path(folder) / "root"
            _bootstrap(fresh, packages, architecture)
            fresh.rename(root)
    return root


def _bootstrap(root: Path, packages: tuple[str, ...], architecture: str) -> None:
    options = ["--variant=minbase", f"--arch={architecture}", f"--include={','.join(packages)}"]
    foreign = architecture != native()
    _run("debootstrap", *options, *(["--foreign"] if foreign else []), SUITE, str(root))
    if foreign:  # its programs run by binfmt, see foreign.py
        # What the second stage mounts ends with it.
        _run("unshare", "--mount", "chroot", str(root), "/debootstrap/debootstrap", "--second-stage")
    for archive in (root / "var/cache/apt/archives").glob("*.deb"):
        archive.unlink()


def native() -> str:
    """Debian's name of this machine's architecture."""
    return _run("dpkg", "--print-architecture").strip()


def _run(*command: str) -> str:
    environment = {"PATH": PATH, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    environment |= {key: os.environ[key] for key in os.environ if key.lower().endswith("_proxy")}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=BOOTSTRAP_TIMEOUT_S, env=environment, check=False
    )
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise NoRoot(f"{' '.join(command)}: exit {done.returncode}\n{tail}")
    return done.stdout
