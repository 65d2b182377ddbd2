"""What is published, read and checked: the newest root, and what the timestamp leads to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tuf.api.exceptions import RepositoryError as TufError
from tuf.api.metadata import (
    DelegatedRole,
    Key,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    T,
    TargetFile,
    Targets,
    Timestamp,
)

from agent.errors import MetadataDamaged, RepositoryError
from agent.fleet.repo.store import TIMESTAMP, RepoFiles

ONLINE = "online"  # the one key of snapshot and timestamp
TOP = Targets.type
CATCH_ALL = "*/*"


@dataclass(frozen=True, slots=True)
class State:
    """``targets``: by role, ``targets`` itself (which delegates to the teams) and each team."""

    root: Metadata[Root]
    timestamp: Metadata[Timestamp]
    snapshot: Metadata[Snapshot]
    targets: Mapping[str, Metadata[Targets]]

    @property
    def top(self) -> Metadata[Targets]:
        return self.targets[TOP]

    def target(self, path: str) -> TargetFile | None:
        """What nodes find under a path."""
        team = team_of(self.top.signed, path)
        return None if team is None else self.targets[team.name].signed.targets.get(path)

    def published(self) -> dict[str, TargetFile]:
        """Everything that nodes find, by path."""
        paths = {path for role in teams(self.top.signed) for path in self.targets[role].signed.targets}
        found = {path: self.target(path) for path in paths}
        return {path: target for path, target in found.items() if target is not None}


def teams(top: Targets) -> dict[str, DelegatedRole]:
    """The delegated roles, in the order in which nodes look into them."""
    return dict((top.delegations.roles if top.delegations else None) or {})


def team_of(top: Targets, path: str) -> DelegatedRole | None:
    """The team whose pattern matches a path: the first one, as every delegation ends the search."""
    return next((role for role in teams(top).values() if role.is_delegated_path(path)), None)


def keys_of(delegator: Root | Targets, role: str) -> list[Key]:
    """Who may sign a role."""
    return [delegator.get_key(keyid) for keyid in delegator.get_delegated_role(role).keyids]


def is_signed(delegator: Root | Targets, role: str, metadata: Metadata[T]) -> bool:
    """Whether enough of the role's keys signed its metadata."""
    result = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    return bool(result)


def parse(data: bytes, name: str, type_: type[T]) -> Metadata[T]:
    """MetadataDamaged when it is not metadata of this type."""
    try:
        metadata = Metadata[T].from_bytes(data)
    except (TufError, ValueError, RecursionError) as error:
        raise MetadataDamaged(
            f"{name}: not metadata: {error}; restore the repository from a backup"
        ) from error
    if not isinstance(metadata.signed, type_):
        raise MetadataDamaged(f"{name}: of type {metadata.signed.type}; restore the repository from a backup")
    return metadata


def load(files: RepoFiles, make: str = "overlaid fleet repo init") -> State:
    """What is published. All of it is checked, so that to change a file is no way to get a signature.

    Raises RepositoryError (there is none: ``make`` makes one), MetadataDamaged, StoreError.
    """
    roots, timestamp = versions(files, make), files.read(TIMESTAMP)
    try:
        return _load(files, roots)
    except MetadataDamaged:
        if (versions(files, make), files.read(TIMESTAMP)) == (roots, timestamp):
            raise
        return _load(files, versions(files, make))  # something was published meanwhile


def versions(files: RepoFiles, make: str) -> list[int]:
    """Of root. RepositoryError when there is no repository, MetadataDamaged when there was one."""
    found = files.versions(Root.type)
    if not found and files.read(TIMESTAMP) is not None:
        raise MetadataDamaged(f"{files.metadata} has no root; restore {files.root} from a backup")
    if not found:
        raise RepositoryError(f"there is no repository in {files.root}; make one: {make}")
    return found


def _load(files: RepoFiles, versions: list[int]) -> State:
    root = _read(files, f"{versions[-1]}.root.json", Root)
    before = _read(files, f"{versions[-2]}.root.json", Root).signed if len(versions) > 1 else root.signed
    for delegator in (before, root.signed):
        _check(files, delegator, Root.type, root)
    timestamp = _read(files, TIMESTAMP, Timestamp)
    _check(files, root.signed, Timestamp.type, timestamp)
    snapshot = _named(files, "snapshot", timestamp.signed.snapshot_meta, Snapshot)
    _check(files, root.signed, Snapshot.type, snapshot)
    top = _named(files, TOP, snapshot.signed.meta.get(f"{TOP}.json"), Targets)
    _check(files, root.signed, TOP, top)
    targets = {TOP: top}
    for role in teams(top.signed):
        targets[role] = _named(files, role, snapshot.signed.meta.get(f"{role}.json"), Targets)
        _check(files, top.signed, role, targets[role])
    return State(root, timestamp, snapshot, targets)


def names(files: RepoFiles, state: State) -> list[str]:
    """The files that a node may ask for, whichever root it trusts."""
    current = {Snapshot.type: state.snapshot.signed.version}
    current |= {role: metadata.signed.version for role, metadata in state.targets.items()}
    roots = [f"{version}.root.json" for version in files.versions("root")]
    return [*roots, *(f"{version}.{role}.json" for role, version in current.items()), TIMESTAMP]


def _read(files: RepoFiles, name: str, type_: type[T], meta: MetaFile | None = None) -> Metadata[T]:
    data = files.read(name)
    if data is None:
        raise MetadataDamaged(f"{files.metadata / name} is not there; restore {files.root} from a backup")
    if meta is not None:
        try:
            meta.verify_length_and_hashes(data)
        except TufError as error:
            raise MetadataDamaged(
                f"{files.metadata / name} is not what was published; restore {files.root} from a backup"
            ) from error
    return parse(data, str(files.metadata / name), type_)


def _named(files: RepoFiles, role: str, meta: MetaFile | None, type_: type[T]) -> Metadata[T]:
    if meta is None:
        raise MetadataDamaged(
            f"{files.root}: snapshot does not name {role}; restore the folder from a backup"
        )
    return _read(files, f"{meta.version}.{role}.json", type_, meta)


def _check(files: RepoFiles, delegator: Root | Targets, role: str, metadata: Metadata[T]) -> None:
    if not is_signed(delegator, role, metadata):
        raise MetadataDamaged(
            f"{files.root}: {role} {metadata.signed.version} is not signed by its keys; "
            "restore the folder from a backup"
        )
