"""The files of the next publication: what was signed offline, and all that the teams' and online keys sign for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, T, TargetFile, Targets, Timestamp

from agent.errors import MetadataTooLarge, RepositoryError
from agent.fleet.repo.signers import Signers, name_of
from agent.fleet.repo.state import ONLINE, TOP, State, is_signed, keys_of, team_of, teams
from agent.fleet.repo.store import TIMESTAMP, limit_of

SIGNED_FOR = timedelta(days=365)  # root, targets, teams
ONLINE_FOR = timedelta(days=7)  # snapshot and timestamp
TIMESTAMP_EVERY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes different. ``root`` and ``top`` (targets) are signed already. ``added``: new targets, by path.
    ``renew``: teams whose metadata gets a new date."""

    root: Metadata[Root] | None = None
    top: Metadata[Targets] | None = None
    added: Mapping[str, TargetFile] = field(default_factory=dict)
    renew: Collection[str] = ()


def due(expires: datetime, now: datetime, valid: timedelta = SIGNED_FOR) -> bool:
    """Whether the last third of its validity has begun."""
    return expires - now <= valid / 3


def build(state: State | None, change: Change, signers: Signers, now: datetime) -> dict[str, bytes]:
    """Metadata files by name, none when nothing is different or due; without a ``state`` those of a new repository,
    for which ``change`` has root and targets.

    Raises RepositoryError (a key is not here), MetadataTooLarge.
    """
    root = change.root or (state.root if state else None)
    top = change.top or (state.top if state else None)
    if root is None or top is None:
        raise ValueError("a new repository begins with root and targets")
    files: dict[str, bytes] = {}
    metas = dict(state.snapshot.signed.meta) if state else {}
    if change.root is not None:
        _put(files, Root.type, root)
    if change.top is not None:
        metas[f"{TOP}.json"] = _put(files, TOP, top)
    for team, metadata in _teams(state, change, top.signed, signers, now).items():
        metas[f"{team}.json"] = _put(files, team, metadata)
    snapshot = _snapshot(state, metas, root.signed, signers, now)
    meta = _put(files, Snapshot.type, snapshot) if snapshot is not None else None
    timestamp = _timestamp(state, meta, root.signed, signers, now)
    if timestamp is not None:
        _put(files, Timestamp.type, timestamp)
    return files


def _teams(
    state: State | None, change: Change, top: Targets, signers: Signers, now: datetime
) -> dict[str, Metadata[Targets]]:
    """New metadata of the teams whose targets, key or date is not what it should be."""
    targets = (state.published() if state else {}) | dict(change.added)
    owners = {path: owner.name for path in targets if (owner := team_of(top, path))}
    changed = {}
    for team in teams(top):
        mine = {path: target for path, target in targets.items() if owners.get(path) == team}
        old = state.targets.get(team) if state else None
        keeps = old is not None and is_signed(top, team, old) and team not in change.renew
        if old is not None and keeps and mine.items() <= old.signed.targets.items():
            continue  # what another team took over may stay: nobody looks for it there
        version = old.signed.version + 1 if old else 1
        changed[team] = Metadata(Targets(version, expires=now + SIGNED_FOR, targets=mine))
        _sign(changed[team], top, team, signers)
    return changed


def _snapshot(
    state: State | None, metas: dict[str, MetaFile], root: Root, signers: Signers, now: datetime
) -> Metadata[Snapshot] | None:
    """None when the one before stays."""
    old = state.snapshot if state else None
    keeps = old is not None and metas == old.signed.meta and is_signed(root, Snapshot.type, old)
    if old is not None and keeps and not due(old.signed.expires, now, ONLINE_FOR):
        return None
    new = Metadata(Snapshot(old.signed.version + 1 if old else 1, expires=now + ONLINE_FOR, meta=metas))
    _sign(new, root, Snapshot.type, signers)
    return new


def _timestamp(
    state: State | None, meta: MetaFile | None, root: Root, signers: Signers, now: datetime
) -> Metadata[Timestamp] | None:
    """``meta``: of a new snapshot. None when the one before stays."""
    old = state.timestamp if state else None
    keeps = old is not None and meta is None and is_signed(root, Timestamp.type, old)
    if old is not None and keeps and old.signed.expires - now > ONLINE_FOR - TIMESTAMP_EVERY:
        return None
    meta = meta or (old.signed.snapshot_meta if old else None)
    version = old.signed.version + 1 if old else 1
    new = Metadata(Timestamp(version, expires=now + ONLINE_FOR, snapshot_meta=meta))
    _sign(new, root, Timestamp.type, signers)
    return new


def _sign(metadata: Metadata[T], delegator: Root | Targets, role: str, signers: Signers) -> None:
    keys = keys_of(delegator, role)
    signers.sign(metadata, keys)
    if not is_signed(delegator, role, metadata):
        what = ONLINE if role in (Snapshot.type, Timestamp.type) else role
        names = " or ".join(f"{name_of(key)}.pem" for key in keys)
        raise RepositoryError(
            f"{role} must be signed by {names}, which is not in {signers.home.keys}: restore it from a backup; if it "
            f"is lost, replace it: {signers.home.command(f'repo rotate {what} --offline DIR')}"
        )


def _put(files: dict[str, bytes], role: str, metadata: Metadata[T]) -> MetaFile:
    """Keep a file under its name; what the snapshot or timestamp says about it."""
    data, limit = metadata.to_bytes(), limit_of(role)
    if len(data) > limit:
        raise MetadataTooLarge(
            f"{role} would have {len(data)} bytes, and nodes take {limit}: let another team sign some of the models "
            "(overlaid fleet repo delegate TEAM 'MODEL/*')"
        )
    version = metadata.signed.version
    files[TIMESTAMP if role == Timestamp.type else f"{version}.{role}.json"] = data
    return MetaFile.from_data(version, data, ["sha256"])
