"""What waits for signatures of root and targets: kept as one file, so that its parts never part."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from tuf.api.metadata import Key, Metadata, Root, T, Targets, VerificationResult

from agent.errors import MetadataDamaged
from agent.fleet.repo.build import Change
from agent.fleet.repo.signers import Signers, name_of
from agent.fleet.repo.state import TOP, State, keys_of, parse


@dataclass(frozen=True, slots=True)
class Waiting:
    """A version that lacks ``missing`` signatures, of the keys ``may_sign``; ``signed``: who did."""

    role: str
    version: int
    signed: tuple[str, ...]
    missing: int
    may_sign: tuple[str, ...]

    def __str__(self) -> str:
        names = " or ".join(f"{name}.pem" for name in self.may_sign)
        return f"{self.role} {self.version} waits for {self.missing} more of: {names}"


def encode(change: Change) -> bytes | None:
    """None when nothing waits."""
    parts: dict[str, Metadata[Root] | Metadata[Targets] | None] = {Root.type: change.root, TOP: change.top}
    values = {role: metadata.to_dict() for role, metadata in parts.items() if metadata is not None}
    return json.dumps(values).encode() if values else None


def decode(data: bytes | None, state: State, name: str) -> Change:
    """What waits; nothing when it has been published meanwhile. MetadataDamaged, which says what to remove."""
    if data is None:
        return Change()
    try:
        values = json.loads(data)
        root = _part(values.get(Root.type), name, Root)
        top = _part(values.get(TOP), name, Targets)
    except (ValueError, AttributeError, RecursionError, MetadataDamaged) as error:
        raise MetadataDamaged(f"{name}: damaged; remove it and give the command again") from error
    for new, old in ((root, state.root.signed.version), (top, state.top.signed.version)):
        if new is not None and new.signed.version <= old:
            return Change()
    return Change(root, top)


def _part(value: object, name: str, type_: type[T]) -> Metadata[T] | None:
    return None if value is None else parse(json.dumps(value).encode(), name, type_)


def sign(change: Change, state: State, signers: Signers) -> None:
    """Add the signatures of the keys that are here."""
    if change.root is not None:
        old, new = state.root.signed, change.root.signed
        signers.sign(change.root, _by_id([*keys_of(old, Root.type), *keys_of(new, Root.type)]))
    if change.top is not None:
        signers.sign(change.top, keys_of((change.root or state.root).signed, TOP))


def waiting(change: Change, state: State) -> tuple[Waiting, ...]:
    """What cannot be published yet: a new root needs enough keys of the present one and enough of its own."""
    found = []
    if change.root is not None:
        new, data, signatures = change.root.signed, change.root.signed_bytes, change.root.signatures
        results = [
            each.get_verification_result(Root.type, data, signatures) for each in (state.root.signed, new)
        ]
        found.append(_waiting(Root.type, new.version, results))
    if change.top is not None:
        root, top = (change.root or state.root).signed, change.top
        result = root.get_verification_result(TOP, top.signed_bytes, top.signatures)
        found.append(_waiting(TOP, top.signed.version, [result]))
    return tuple(each for each in found if each.missing)


def _waiting(role: str, version: int, results: list[VerificationResult]) -> Waiting:
    """``results``: by the published delegator's keys, then by the new one's."""
    lacking = [result for result in results if result.missing]
    signed = {keyid: key for result in results for keyid, key in result.signed.items()}
    unsigned = {keyid: key for result in lacking for keyid, key in result.unsigned.items()}
    # Keys that stay, rather than one that is replaced, perhaps because it is lost, when they are enough.
    stay = unsigned.keys() & results[-1].unsigned.keys()
    if all(len(stay & result.unsigned.keys()) >= result.missing for result in lacking):
        unsigned = {keyid: unsigned[keyid] for keyid in stay}
    missing = max((result.missing for result in lacking), default=0)
    return Waiting(role, version, _names(signed.values()), missing, _names(unsigned.values()))


def _names(keys: Iterable[Key]) -> tuple[str, ...]:
    return tuple(sorted(map(name_of, keys)))


def _by_id(keys: Iterable[Key]) -> Iterable[Key]:
    return {key.keyid: key for key in keys}.values()
