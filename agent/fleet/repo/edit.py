"""One change of what is signed offline: it begins with what is staged already."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from tuf.api.metadata import Key, Metadata, Root, Snapshot, Targets, Timestamp

from agent.errors import UsageError
from agent.fleet.repo import edits
from agent.fleet.repo.build import Change, due
from agent.fleet.repo.signers import Signers, name_of
from agent.fleet.repo.state import ONLINE, TOP, State, keys_of, teams


class Edit:
    """``root`` and ``top``: what is to be signed and published, None: as it is. ``renewed``: teams that get a new date.
    ``made``: new keys; ``retired``: the names of those that they replace."""

    def __init__(self, state: State, staged: Change, signers: Signers, now: datetime) -> None:
        self._state, self._signers, self._now = state, signers, now
        self.root, self.top = staged.root, staged.top
        self.renewed: list[str] = []
        self.made: list[str] = []
        self.retired: list[str] = []

    def delegate(self, team: str, patterns: Sequence[str]) -> None:
        self._need_targets(f"delegating to {team}")
        top = self._next_top()
        patterns = edits.check_patterns(top, team, patterns)
        key = None if team in teams(top) else self._key(self._signers.home.keys, team, reuse=True)
        edits.delegate(top, team, patterns, key)

    def rotate(self, role: str, lost: str | None) -> None:
        if role in (Snapshot.type, Timestamp.type):
            raise UsageError(f"{role} is signed by the online key: rotate {ONLINE}")
        if role in (Root.type, TOP, ONLINE):
            self._rotate_in_root(role, lost)
            return
        known = teams((self.top or self._state.top).signed)
        if role not in known:
            raise UsageError(f"{role!r} is no role; there are {', '.join((Root.type, TOP, ONLINE, *known))}")
        self._need_targets(f"replacing the key of {role}")
        top = self._next_top()
        old = _chosen(keys_of(top, role), lost, role)
        self._replace(top, (role,), old, self._signers.home.keys, role)

    def _rotate_in_root(self, role: str, lost: str | None) -> None:
        present = keys_of(self._state.root.signed, Root.type)
        self._signers.need([key for key in present if name_of(key) != lost], f"replacing keys of {role}")
        root = self._next_root()
        roles = (Snapshot.type, Timestamp.type) if role == ONLINE else (role,)
        old = _chosen(keys_of(root, roles[0]), lost, role)
        folder = self._signers.home.keys if role == ONLINE else self._signers.offline
        self._replace(root, roles, old, folder, role)
        if role == TOP:
            self._next_top()  # the new key has to sign it

    def renew(self) -> None:
        """Give a new date to what is in the last third of its validity and whose keys, or one of them, are here."""
        root, top = self._state.root.signed, self._state.top.signed
        if self.root is None and due(root.expires, self._now) and self._any_here(keys_of(root, Root.type)):
            self._next_root()
        if self.top is None and due(top.expires, self._now) and self._any_here(keys_of(root, TOP)):
            self._next_top()
        for team in teams(top):
            expires = self._state.targets[team].signed.expires
            if due(expires, self._now) and self._any_here(keys_of(top, team)):
                self.renewed.append(team)

    def _next_root(self) -> Root:
        self.root = edits.renewed(self.root or self._state.root, self._state.root, self._now)
        return self.root.signed

    def _next_top(self) -> Targets:
        self.top = edits.renewed(self.top or self._state.top, self._state.top, self._now)
        return self.top.signed

    def _need_targets(self, why: str) -> None:
        self._signers.need(keys_of((self.root or self._state.root).signed, TOP), why)

    def _any_here(self, keys: Sequence[Key]) -> bool:
        return any(self._signers.find(key) for key in keys)

    def _replace(
        self, signed: Root | Targets, roles: Sequence[str], old: Sequence[Key], folder: Path, role: str
    ) -> None:
        for key in old:
            new = self._key(folder, self._signers.free_name(role, self._names()))
            for each in roles:
                edits.replace_key(signed, each, key.keyid, new)
            self.retired.append(name_of(key))

    def _key(self, folder: Path, name: str, reuse: bool = False) -> Key:
        key = self._signers.make(folder, name, reuse).public_key
        self.made.append(str(folder / f"{name}.pem"))
        return key

    def _names(self) -> set[str]:
        """Names of keys in all that is published or staged."""
        known: list[Metadata[Root] | Metadata[Targets]] = [self._state.root, self._state.top]
        known += [metadata for metadata in (self.root, self.top) if metadata is not None]
        found: set[str] = set()
        for metadata in known:
            signed = metadata.signed
            keys = (
                signed.keys
                if isinstance(signed, Root)
                else signed.delegations.keys
                if signed.delegations
                else {}
            )
            found |= {name_of(key) for key in keys.values()}
        return found


def _chosen(keys: Sequence[Key], lost: str | None, role: str) -> list[Key]:
    """The keys to replace: all of the role's, or the one that is lost."""
    chosen = [key for key in keys if lost in (None, name_of(key))]
    if not chosen:
        raise UsageError(f"{role} has no key {lost!r}; it has {', '.join(map(name_of, keys))}")
    return chosen
