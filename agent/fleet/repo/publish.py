"""From a package folder to what nodes may install: blocks, metadata, and the metadata beside the blocks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.errors import StoreError
from agent.fleet.home import Home
from agent.fleet.repo.repo import Repo
from agent.fleet.repository import Progress, Published, Repository
from agent.package.directory import METADATA, PackageDir
from agent.package.manifest import parse_manifest


@dataclass(frozen=True, slots=True)
class Added:
    """``team``: who signed. ``problem``: why the folder has no metadata, which ``overlaid deploy`` needs there."""

    entry: Published
    team: str
    problem: str | None


def publish(
    home: Home,
    folder: Path,
    team: str | None = None,
    progress: Progress = lambda _text, _share: None,
    clock: Callable[[], float] = time.time,
) -> Added:
    """Keep a package where ``fleet serve`` answers from and let nodes install it; doing it again changes nothing.

    Raises ManifestError (also: the version exists with other content), BlockMissing, BlockError, UsageError (another
    team signs it), and what ``Repo`` raises.
    """
    repo, data = Repo(home, clock), PackageDir(folder).manifest()
    manifest = parse_manifest(data)
    signed_by = repo.check(manifest.name, manifest.version, data, team)  # before gigabytes are copied
    entry = Repository(home.packages, home.command).publish(folder, repo.add, progress)
    problem = None
    try:
        repo.export(folder / METADATA)
    except StoreError as error:
        problem = str(error)
    return Added(entry, signed_by, problem)
