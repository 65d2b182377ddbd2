"""What operators do with the repository (docs/package.md)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from tuf.api.metadata import TargetFile

from agent.errors import ManifestError, UsageError
from agent.fleet.home import Home
from agent.fleet.keys import make_folder
from agent.fleet.repo import edits, staged
from agent.fleet.repo.build import Change, build
from agent.fleet.repo.edit import Edit
from agent.fleet.repo.signers import Signers
from agent.fleet.repo.staged import Waiting
from agent.fleet.repo.state import ONLINE, TOP, State, load, names, team_of, versions
from agent.fleet.repo.status import RepoStatus, status
from agent.fleet.repo.store import TIMESTAMP, RepoStore, write_folder
from agent.package.verify import target_path
from agent.paths import exists

TEAM = "packages"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command did. ``published``: files. ``made``: new keys. ``retired``: keys that sign nothing any more, once
    nothing is ``waiting``."""

    published: tuple[str, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    made: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()


class Repo:
    """The repository in the operator's folder. ``clock``: Unix seconds. ``offline``, where it is taken: folders with
    keys of root and targets, besides the home's own.

    Raises RepositoryError everywhere (there is no repository; a key is not here, and how to give it; a key is
    damaged), MetadataDamaged, MetadataTooLarge, StoreError.
    """

    def __init__(self, home: Home, clock: Callable[[], float] = time.time) -> None:
        self._home, self._clock = home, clock
        self._store = RepoStore(home.repo)

    # -- every day -----------------------------------------------------------------------------------------------

    def init(self, offline: Path | None = None, team: str = TEAM) -> Outcome:
        """Make keys, root, targets that delegate everything to ``team``, snapshot and timestamp.

        UsageError: there is a repository, or the offline folder has another one's keys.
        """
        edits.check_team(team)
        self._home.make()
        folder = (offline or self._home.offline).absolute()
        with self._store.writing():
            if self._store.versions("root") or self._store.read(TIMESTAMP) is not None:
                raise UsageError(
                    f"there is a repository in {self._store.root}: {self._home.command('repo status')}"
                )
            away = [*(f"root-{number + 1}" for number in range(edits.ROOT_KEYS)), TOP]
            paths = [folder / f"{name}.pem" for name in away]
            self._claim(folder, paths)
            make_folder(folder)
            signers, now = Signers(self._home, [folder]), self._now()
            *roots, top = [signers.make(folder, name, reuse=True).public_key for name in away]
            online, first = [
                signers.make(self._home.keys, name, reuse=True).public_key for name in (ONLINE, team)
            ]
            root = edits.first_root(roots, top, online, now)
            targets = edits.first_targets(team, first, now)
            signers.sign(root, roots)
            signers.sign(targets, [top])
            files = build(None, Change(root, targets), signers, now)
            self._store.commit(files)
            self._store.claim(None)
        made = [*paths, *(self._home.keys / f"{name}.pem" for name in (ONLINE, team))]
        return Outcome(tuple(files), made=tuple(map(str, made)))

    def add(self, name: str, version: str, data: bytes, team: str | None = None) -> str:
        """Let nodes install the package whose manifest is ``data``; the team that signed. Adding it again changes
        nothing.

        ManifestError: the version has other content. UsageError: another team than ``team`` signs this model.
        """
        with self._writing() as state:
            owner, new = self._addition(state, name, version, data, team)
            self._publish(state, Change(added=new), Signers(self._home))
        return owner

    def check(self, name: str, version: str, data: bytes, team: str | None = None) -> str:
        """Raise what ``add`` would, as far as that is known before."""
        state = self._load()
        owner, new = self._addition(state, name, version, data, team)
        build(state, Change(added=new), Signers(self._home), self._now())
        return owner

    def renew(self) -> bool:
        """Sign a new timestamp once a day, a new snapshot in the last third of its validity; whether one was due."""
        with self._writing() as state:
            return bool(self._publish(state, Change(), Signers(self._home)))

    def export(self, folder: Path) -> None:
        """Write what is published now into ``folder``, which is replaced: for nodes that get packages in folders."""
        with self._writing() as state:
            found = {name: self._store.read(name) for name in names(self._store, state)}
        write_folder(folder, {name: data for name, data in found.items() if data is not None})

    def status(self) -> RepoStatus:
        """Roles, keys, dates, what waits, what to do next."""
        state = self._load()
        return status(state, self._staged(state), Signers(self._home), self._now(), self._store.staged)

    # -- with offline keys ---------------------------------------------------------------------------------------

    def delegate(self, team: str, patterns: Sequence[str], offline: Sequence[Path] = ()) -> Outcome:
        """Let ``team`` sign the models that the patterns match, published ones included; its key is made when there is
        none. UsageError: what is no pattern, or overlaps another team's."""
        return self._edited(offline, lambda edit: edit.delegate(edits.check_team(team), patterns))

    def rotate(self, role: str, offline: Sequence[Path] = (), lost: str | None = None) -> Outcome:
        """Replace the key of ``targets``, ``online`` (snapshot and timestamp) or a team; of ``root`` the one that is
        ``lost``, or all. UsageError: no such role, or key."""
        return self._edited(offline, lambda edit: edit.rotate(role, lost))

    def sign(self, offline: Sequence[Path] = ()) -> Outcome:
        """Add the signatures of the keys that are here to what is staged, and publish it when they suffice; renew what
        is in the last third of its validity."""
        return self._edited(offline, lambda edit: edit.renew())

    def _edited(self, offline: Sequence[Path], change: Callable[[Edit], None]) -> Outcome:
        signers = Signers(self._home, offline)
        with self._writing() as state:
            edit = Edit(state, self._staged(state), signers, self._now())
            change(edit)
            offline_part = Change(edit.root, edit.top)
            staged.sign(offline_part, state, signers)
            missing = staged.waiting(offline_part, state)
            if missing:
                self._store.write_staged(staged.encode(offline_part))
                files = self._publish(state, Change(renew=edit.renewed), signers)
            else:
                files = self._publish(state, Change(edit.root, edit.top, renew=edit.renewed), signers)
                self._store.write_staged(None)
        return Outcome(files, missing, tuple(edit.made), tuple(edit.retired))

    # -- parts ---------------------------------------------------------------------------------------------------

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), timezone.utc)

    def _load(self) -> State:
        return load(self._store, self._home.command("repo init"))

    @contextmanager
    def _writing(self) -> Iterator[State]:
        versions(self._store, self._home.command("repo init"))  # nothing is made where there is none
        with self._store.writing():
            yield self._load()

    def _staged(self, state: State) -> Change:
        return staged.decode(self._store.read_staged(), state, str(self._store.staged))

    def _publish(self, state: State, change: Change, signers: Signers) -> tuple[str, ...]:
        files = build(state, change, signers, self._now())
        if files:
            self._store.commit(files)
        return tuple(files)

    def _addition(
        self, state: State, name: str, version: str, data: bytes, team: str | None
    ) -> tuple[str, dict[str, TargetFile]]:
        path = target_path(name, version)
        owner = team_of(state.top.signed, path)
        if owner is None:
            raise UsageError(f"no team signs {name}: {self._home.command(f'repo delegate TEAM {name}/*')}")
        if team not in (None, owner.name):
            pattern = next(each for each in owner.paths or () if edits.overlap(each, path))
            raise UsageError(
                f"{name} is signed by team {owner.name}, whose pattern {pattern} matches, not by {team}"
            )
        target = TargetFile.from_data(path, data, ["sha256"])
        known = state.target(path)
        if known is None:
            return owner.name, {path: target}
        if known.hashes != target.hashes:
            raise ManifestError(
                f"{name} {version} is published with other content (digest {known.hashes['sha256'][:12]}); "
                "a version never changes: raise version in model.toml and pack again"
            )
        return owner.name, {}

    def _claim(self, folder: Path, paths: Sequence[Path]) -> None:
        """Keys that are there already are taken only when an interrupted ``init`` made them."""
        taken = [path for path in paths if exists(path)]
        if taken and self._store.claimed() != str(folder):
            raise UsageError(
                f"{taken[0]} exists, perhaps another repository's: name an empty folder for the new keys: --offline DIR"
            )
        self._store.claim(str(folder))
