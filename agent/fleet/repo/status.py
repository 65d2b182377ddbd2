"""What the repository looks like, and what an operator should do next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tuf.api.metadata import Key, Metadata, Root, Snapshot, Targets, Timestamp

from agent.fleet.home import Home
from agent.fleet.repo.build import ONLINE_FOR, Change, due
from agent.fleet.repo.signers import Signers, name_of, short_id
from agent.fleet.repo.staged import Waiting, waiting
from agent.fleet.repo.state import ONLINE, TOP, State, keys_of, team_of, teams

DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """``here``: its secret part is in the operator's folder."""

    name: str
    id: str
    here: bool


@dataclass(frozen=True, slots=True)
class RoleStatus:
    """``expires``: Unix seconds. ``due``: in the last third of its validity. ``targets``: packages that it names."""

    role: str
    version: int
    expires: float
    days: float
    due: bool
    threshold: int
    keys: tuple[KeyStatus, ...]
    patterns: tuple[str, ...] = ()
    targets: int = 0

    @property
    def expired(self) -> bool:
        return self.days <= 0


@dataclass(frozen=True, slots=True)
class RepoStatus:
    """``staged``: what lacks signatures. ``targets``: packages that nodes may install. ``next``: what to do."""

    root: str
    roles: tuple[RoleStatus, ...]
    staged: tuple[Waiting, ...]
    targets: int
    next: tuple[str, ...]

    @property
    def expired(self) -> bool:
        return any(role.expired for role in self.roles)


def status(state: State, staged: Change, signers: Signers, now: datetime, staged_file: Path) -> RepoStatus:
    """Of what is published and staged; RepositoryError, StoreError for keys that cannot be read."""
    home = signers.home
    roles, lacking = tuple(_roles(state, signers, now)), waiting(staged, state)
    steps = [*_staged_steps(lacking, staged_file, home), *_steps(roles, home)]
    return RepoStatus(
        str(home.repo / "root.json"), roles, lacking, sum(role.targets for role in roles), tuple(steps)
    )


def _roles(state: State, signers: Signers, now: datetime) -> Iterator[RoleStatus]:
    def role(
        name: str, metadata: Metadata[Root] | Metadata[Timestamp] | Metadata[Snapshot] | Metadata[Targets],
        delegator: Root | Targets,
    ) -> RoleStatus:  # fmt: skip
        signed, found = metadata.signed, delegator.get_delegated_role(name)
        left = signed.expires - now
        return RoleStatus(
            name,
            signed.version,
            signed.expires.timestamp(),
            round(left.total_seconds() / DAY_S, 2),
            due(signed.expires, now, ONLINE_FOR)
            if name in (Snapshot.type, Timestamp.type)
            else due(signed.expires, now),
            found.threshold,
            tuple(_key(key, signers) for key in keys_of(delegator, name)),
            tuple(getattr(found, "paths", None) or ()),
            owners[name],
        )

    root, top = state.root.signed, state.top.signed
    owners = Counter(owner.name for path in state.published() if (owner := team_of(top, path)))
    yield role(Root.type, state.root, root)
    yield role(TOP, state.top, root)
    for team in teams(top):
        yield role(team, state.targets[team], top)
    yield role(Snapshot.type, state.snapshot, root)
    yield role(Timestamp.type, state.timestamp, root)


def _key(key: Key, signers: Signers) -> KeyStatus:
    return KeyStatus(name_of(key), short_id(key), signers.find(key) is not None)


def _staged_steps(lacking: tuple[Waiting, ...], staged_file: Path, home: Home) -> Iterator[str]:
    for each in lacking:
        yield f"{each}: {home.command('repo sign --offline DIR')}"
    if lacking:
        yield f"or drop what is staged: remove {staged_file}"


def _steps(roles: tuple[RoleStatus, ...], home: Home) -> Iterator[str]:
    for role in roles:
        yield from _role_steps(role, home)
    here = [key.name for role in roles if role.role in (Root.type, TOP) for key in role.keys if key.here]
    if here:
        yield f"move {home.offline} to a safe place, the keys of root to different ones: {', '.join(here)}"
    if not any(role.targets for role in roles):
        yield f"let nodes install a package: {home.command('publish OUT')}"


def _role_steps(role: RoleStatus, home: Home) -> Iterator[str]:
    online, offline = role.role in (Snapshot.type, Timestamp.type), role.role in (Root.type, TOP)
    lost = [key.name for key in role.keys if not key.here]
    if not offline and len(role.keys) - len(lost) < role.threshold and role.role != Snapshot.type:
        what = ONLINE if online else role.role
        yield (
            f"restore {home.keys / lost[0]}.pem from a backup, or replace it: "
            f"{home.command(f'repo rotate {what} --offline DIR')}"
        )
    if role.due and role.role != Snapshot.type:
        when = (
            "has expired, nodes install nothing new" if role.expired else f"expires in {role.days:.0f} days"
        )
        how = (
            home.command("serve")
            if online
            else home.command("repo sign" + (" --offline DIR" if offline else ""))
        )
        names = " or ".join(f"{key.name}.pem" for key in role.keys)
        yield f"{role.role} {when}; renew it: {how} (needs {role.threshold} of {names})"
