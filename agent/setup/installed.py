"""The files of systemd/ that come with this installation."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from agent.errors import ServiceError

CLONE = Path(__file__).parents[2] / "systemd"
# Where a wheel's data-files go (pyproject.toml).
DATA = Path(sysconfig.get_path("data")) / "share/overlaid/systemd"


def installed_text(name: str) -> str:
    """``overlaid.service``, ``agent.toml`` …; ServiceError where this installation has no such file."""
    for folder in (CLONE, DATA):
        try:
            return (folder / name).read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            continue
    raise ServiceError(f"this installation of overlaid has no {name} in {DATA}: install it again")
