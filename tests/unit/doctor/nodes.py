"""Nodes for the doctor to look at: a folder with a configuration, and users."""

from __future__ import annotations

from pathlib import Path

from agent.doctor.configuration import read
from agent.doctor.finding import Finding
from agent.doctor.subject import Subject, User
from agent.paths import Folders

ROOT = User("root", 0, 0, frozenset({0}))
DAEMON = User("overlaid", 990, 990, frozenset({990}))
SOMEBODY = User("ann", 1000, 1000, frozenset({1000}))


def node(
    folder: Path,
    text: str = "",
    *,
    by_service: bool = True,
    user: User | None = DAEMON,
    viewer: User = ROOT,
) -> Subject:
    """With ``text`` as its agent.toml; state and runtime folders beside it."""
    config = folder / "agent.toml"
    config.write_text(text)
    config.chmod(0o640)
    folders = Folders(folder / "state", folder / "run")
    return Subject(read(config, {}), folders, by_service, user, viewer)


def wrong(findings: list[Finding]) -> list[Finding]:
    """What is not fine; each says why and how to mend it."""
    found = [finding for finding in findings if finding.level != "ok"]
    assert all(finding.what and finding.why and finding.mend for finding in found), found
    return found


def only(findings: list[Finding]) -> Finding:
    """The one that is not fine."""
    [finding] = wrong(findings)
    return finding
