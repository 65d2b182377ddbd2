"""What the system shows around a GPU: the files in /dev that reach it, and NVIDIA's versions. Opens them, no more."""

from __future__ import annotations

import errno
import os
import pwd
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agent.devices.gpu.gpus import Gpu

MAX_TEXT = 4096
UNMAPPED = 65534  # who a user namespace (PrivateUsers, rootless containers) says that all others are
VERSION = re.compile(r"\b(\d{3}\.\d{1,3}(?:\.\d{1,3})?)\b")
# Where distributions, NVIDIA's installer and its containers put the driver's libraries.
LIBRARIES = (
    "usr/lib",
    "usr/lib64",
    "usr/lib/*-linux-gnu",
    "usr/lib/*-linux-gnu/nvidia/current",
    "usr/local/nvidia/lib64",
)


@dataclass(frozen=True, slots=True)
class Node:
    """A file in /dev. ``state``: open when it opens; denied by its mode; forbidden by a service's or container's rules
    for devices; missing; else failing, for ``why``. ``group``: whose it is; empty where this process cannot know."""

    path: str
    state: Literal["open", "denied", "forbidden", "missing", "failing"]
    group: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """``user``: who we are. ``place``: of this process, a service or container may not see all devices.

    ``nvidia_driver``: version of NVIDIA's loaded driver, empty without one; ``nvidia_libraries``: those of the
    libraries found that programs reach it by.
    """

    nodes: tuple[Node, ...] = ()
    user: str = ""
    place: Literal["machine", "service", "container"] = "machine"
    nvidia_driver: str = ""
    nvidia_libraries: tuple[str, ...] = ()


def look_around(
    gpu: Gpu, root: Path = Path("/"), environment: Mapping[str, str] = os.environ
) -> Surroundings:
    """What there is around the GPU; ``root``: another system's files."""
    return Surroundings(
        tuple(_node(root, path) for path in gpu.nodes),
        _user(),
        _place(root, environment),
        _driver_version(root) if gpu.vendor == "nvidia" else "",
        tuple(sorted(set(_library_versions(root)))) if gpu.vendor == "nvidia" else (),
    )


def _node(root: Path, path: str) -> Node:
    file = root / path.lstrip("/")
    group = _group(file)
    try:
        os.close(os.open(file, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    except FileNotFoundError:
        return Node(path, "missing")
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            # The kernel's rules for devices (cgroups) say EPERM, a file's mode EACCES.
            return Node(path, "denied" if error.errno == errno.EACCES else "forbidden", group)
        return Node(path, "failing", group, error.strerror or "")
    return Node(path, "open", group)


def _group(file: Path) -> str:
    try:
        return "" if file.stat().st_gid == UNMAPPED else file.group()
    except (OSError, KeyError):
        return ""


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _place(root: Path, environment: Mapping[str, str]) -> Literal["machine", "service", "container"]:
    if (
        any((root / mark).exists() for mark in (".dockerenv", "run/.containerenv"))
        or "container" in environment
    ):
        return "container"
    return "service" if "INVOCATION_ID" in environment else "machine"


def _driver_version(root: Path) -> str:
    found = VERSION.search(_text(root / "proc/driver/nvidia/version"))
    return found[1] if found else ""


def _library_versions(root: Path) -> Iterator[str]:
    """Of libcuda and NVML, whose files have the driver's version in their names."""
    for folder in LIBRARIES:
        for name in ("libcuda.so", "libnvidia-ml.so"):
            for path in root.glob(f"{folder}/{name}.*"):
                if version := VERSION.fullmatch(path.name.removeprefix(f"{name}.")):
                    yield version[1]


def _text(path: Path) -> str:
    try:
        with path.open(errors="replace") as file:
            return file.read(MAX_TEXT)
    except OSError:
        return ""
