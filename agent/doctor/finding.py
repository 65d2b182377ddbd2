"""What the doctor found, and words that all areas use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

# "unknown": it could not be looked at; ``why`` tells the reason and ``mend`` the command that can look.
Level = Literal["problem", "warning", "unknown", "ok"]
LEVELS: tuple[Level, ...] = ("problem", "warning", "unknown", "ok")


@dataclass(frozen=True, slots=True)
class Finding:
    """``what`` is so, ``why`` that matters or where it comes from, ``mend``: the command to give; only what is ok needs
    none. Never holds a secret."""

    area: str
    level: Level
    what: str
    why: str = ""
    mend: str = ""


def ok(area: str, what: str, why: str = "") -> Finding:
    return Finding(area, "ok", what, why)


def warning(area: str, what: str, why: str, mend: str) -> Finding:
    """The node works, but less well than it could, or not for long."""
    return Finding(area, "warning", what, why, mend)


def problem(area: str, what: str, why: str, mend: str) -> Finding:
    """Something that the node is told to do does not work, or a secret is open."""
    return Finding(area, "problem", what, why, mend)


def unknown(area: str, what: str, why: str, mend: str) -> Finding:
    return Finding(area, "unknown", what, why, mend)


def count(findings: Iterable[Finding]) -> dict[Level, int]:
    """How many of each level."""
    levels = [finding.level for finding in findings]
    return {level: levels.count(level) for level in LEVELS}


def cause_and_cure(text: str) -> tuple[str, str]:
    """A reason as all rooms write it, ``what is wrong; what to do``, in two; ("…", "") without the latter."""
    cause, _, cure = text.partition("; ")
    return cause, cure
