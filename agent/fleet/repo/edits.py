"""Changes of what is signed offline, root and targets: pure, and not signed yet."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from datetime import datetime
from functools import cache

from tuf.api.metadata import DelegatedRole, Delegations, Key, Metadata, Root, Snapshot, T, Targets, Timestamp

from agent.errors import UsageError
from agent.fleet.repo.build import SIGNED_FOR
from agent.fleet.repo.state import CATCH_ALL, ONLINE, TOP, teams
from agent.types import check_name

ROOT_KEYS, ROOT_THRESHOLD = 3, 2
_PATTERN = re.compile(r"[a-z0-9*?][a-z0-9*?-]{0,62}/\*")
# Names of other roles, and of other keys in the same folder.
TAKEN = frozenset({Root.type, TOP, Snapshot.type, Timestamp.type, ONLINE, "commands"})


def check_team(team: str) -> str:
    """Return ``team`` when a team may be called so; UsageError otherwise."""
    try:
        check_name(team, "team")
    except ValueError as error:
        raise UsageError(str(error)) from error
    if team in TAKEN or re.fullmatch(r"root-[0-9]+", team):
        raise UsageError(f"team {team!r}: the name is taken by another key; choose another")
    return team


def first_root(keys: Sequence[Key], targets: Key, online: Key, now: datetime) -> Metadata[Root]:
    """Version 1, to be signed by ``ROOT_THRESHOLD`` of ``keys``."""
    root = Root(expires=now + SIGNED_FOR)
    for role, signers in (
        (Root.type, keys),
        (TOP, [targets]),
        (Snapshot.type, [online]),
        (Timestamp.type, [online]),
    ):
        for key in signers:
            root.add_key(key, role)
    root.roles[Root.type].threshold = ROOT_THRESHOLD
    return Metadata(root)


def first_targets(team: str, key: Key, now: datetime) -> Metadata[Targets]:
    """Version 1: every model is the team's."""
    role = DelegatedRole(team, [key.keyid], 1, terminating=True, paths=[CATCH_ALL])
    return Metadata(
        Targets(expires=now + SIGNED_FOR, delegations=Delegations({key.keyid: key}, {team: role}))
    )


def renewed(metadata: Metadata[T], published: Metadata[T], now: datetime) -> Metadata[T]:
    """A copy without signatures, with a new date: the version after the ``published`` one."""
    signed = copy.deepcopy(metadata.signed)
    signed.version, signed.expires = published.signed.version + 1, now + SIGNED_FOR
    return Metadata(signed)


def replace_key(signed: Root | Targets, role: str, old: str, new: Key) -> None:
    """Let ``new`` sign a role instead of the key with the id ``old``, at its place."""
    signed.add_key(new, role)
    signed.revoke_key(old, role)


def check_patterns(top: Targets, team: str, patterns: Sequence[str]) -> list[str]:
    """Those of the patterns that the team does not have yet.

    Raises UsageError: for none, for what is no pattern, and for one that overlaps another team's, because the order of
    the delegations would then decide.
    """
    known = teams(top)
    has = (known[team].paths or []) if team in known else []
    if CATCH_ALL in has:
        raise UsageError(f"team {team} signs everything that no other team does: name another team")
    new = [pattern for pattern in dict.fromkeys(patterns) if pattern not in has]
    if not new:
        raise UsageError(f"team {team} signs {', '.join(has)} already")
    for pattern in new:
        if not _PATTERN.fullmatch(pattern) or pattern == CATCH_ALL:
            raise UsageError(f"{pattern!r} is not like 'digits/*' or 'camera-*/*': a model's name, then '/*'")
        for other in known.values():
            for taken in other.paths or ():
                if other.name != team and taken != CATCH_ALL and overlap(pattern, taken):
                    raise UsageError(f"{pattern} overlaps with {taken}, which team {other.name} signs")
    return new


def delegate(top: Targets, team: str, patterns: Sequence[str], key: Key | None) -> None:
    """Let a team sign what the patterns match, before the team that signs everything else. ``key``: of a new team."""
    known = teams(top)
    if team in known:
        known[team].paths = [*(known[team].paths or ()), *patterns]
        return
    if key is None or top.delegations is None:
        raise ValueError("a new team has a key, and targets delegates")
    top.delegations.keys[key.keyid] = key
    role = DelegatedRole(team, [key.keyid], 1, terminating=True, paths=list(patterns))
    last = {name: each for name, each in known.items() if CATCH_ALL in (each.paths or ())}
    first = {name: each for name, each in known.items() if name not in last}
    top.delegations.roles = {**first, team: role, **last}


def overlap(one: str, two: str) -> bool:
    """Whether some path matches both patterns, of which ``*`` is any text and ``?`` any character within a part."""
    parts, others = one.split("/"), two.split("/")
    return len(parts) == len(others) and all(map(_meet, parts, others))


@cache
def _meet(one: str, two: str) -> bool:
    if one[:1] == "*" or two[:1] == "*":
        star, other = (one, two) if one[:1] == "*" else (two, one)
        return _meet(star[1:], other) or (other != "" and _meet(star, other[1:]))
    if not one or not two:
        return one == two
    return (one[0] == two[0] or "?" in (one[0], two[0])) and _meet(one[1:], two[1:])
