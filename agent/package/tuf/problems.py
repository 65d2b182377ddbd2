"""What is wrong with a repository's metadata, and what to do about it: errors with their texts. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from agent.errors import (
    MetadataDamaged,
    MetadataExpired,
    MetadataMismatch,
    MetadataMissing,
    MetadataRollback,
    MetadataTooLarge,
    UnknownTarget,
    WrongKeys,
)

ONLINE = ("timestamp", "snapshot")  # roles that overlaid fleet serve renews
ASK = "if it stays so, see who answers for the repository, and its state: overlaid fleet repo status"
PUBLISH = "publish again (overlaid fleet publish)"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a file of metadata says of itself. ``expires``: UTC."""

    role: str
    version: int
    expires: datetime

    def __str__(self) -> str:
        return f"{self.role} version {self.version!s:.20}"


def role_of(name: str) -> str:
    """The role of a file: vision of ``3.vision.json``."""
    number, _, rest = name.removesuffix(".json").partition(".")
    return rest or number


def expired(seen: Seen, now: datetime) -> MetadataExpired:
    """Freeze: nobody renewed it, or somebody keeps what is newer from this node."""
    renew = "overlaid fleet serve renews it" if seen.role in ONLINE else "renew it: overlaid fleet repo sign"
    return MetadataExpired(
        f"{seen} of the repository expired on {_minute(seen.expires)}, and this node's clock says "
        f"{_minute(now)}: nothing new is installed, what runs goes on. {renew}, "
        "and a package folder needs overlaid fleet publish again; a clock that is wrong looks the same, and so does "
        "somebody who keeps newer metadata from this node"
    )


def rollback(got: str, known: str) -> MetadataRollback:
    """``got``: what came; ``known``: what was seen before; each as "timestamp version 3"."""
    return MetadataRollback(
        f"the repository's {got} is older than {known}, which this node has seen: refused. Serve the newest "
        f"state of the operator's folder, not an older copy; {ASK}"
    )


def removed(seen: Seen | None) -> MetadataRollback:
    """A snapshot that forgets a role."""
    return MetadataRollback(
        f"the repository's {seen or 'snapshot'} leaves out a role that this node has seen: refused. Serve the newest "
        f"state of the operator's folder; {ASK}"
    )


def mismatch(name: str, seen: Seen | None, why: str) -> MetadataMismatch:
    """Mix-and-match. ``name``: of the file; ``seen``: what it says that it is."""
    what = f"{name} ({seen})" if seen else name
    return MetadataMismatch(
        f"{what} is not the file that the repository's other metadata names: {why}; it is asked for again later, {ASK}"
    )


def too_large(name: str, limit: int) -> MetadataTooLarge:
    """Endless data. ``limit``: bytes."""
    return MetadataTooLarge(
        f"{name} has more than the {limit} bytes that such a file may have, and was not read further: {ASK}"
    )


def wrong_keys(name: str, seen: Seen | None, why: str) -> WrongKeys:
    """``name``: of the file; empty for the root that the node was given."""
    if not name:
        return WrongKeys(
            f"[trust] root, {seen or 'root'}, is not signed by enough of its own keys ({why}): copy the operator's "
            "repo/root.json to this node again"
        )
    what = f"{name} ({seen})" if seen else name
    return WrongKeys(
        f"{what} is not signed by enough of the keys that may sign it ({why}): refused. After keys were rotated: "
        f"overlaid fleet repo sign; of another operator: [trust] root names the wrong one; {ASK}"
    )


def damaged(name: str, why: str) -> MetadataDamaged:
    """``name``: of the file; empty for the root that the node was given."""
    if not name:
        return MetadataDamaged(
            f"[trust] root is no TUF root ({why}): copy the operator's repo/root.json to this node again"
        )
    return MetadataDamaged(f"{name} is no metadata of a TUF repository ({why}): {PUBLISH}; {ASK}")


def missing(name: str, folder: bool) -> MetadataMissing:
    """``folder``: it was looked for in a package folder."""
    if folder:
        return MetadataMissing(
            f"there is no metadata/{name} in the package folder: {PUBLISH}, and copy the whole folder; one older "
            "than what this node has seen may not do"
        )
    return MetadataMissing(f"the repository has no {name}: {PUBLISH}; {ASK}")


def unknown(path: str, known: str) -> UnknownTarget:
    """Nobody signed for the target. ``known``: the metadata that says so."""
    return UnknownTarget(
        f"nobody who may sign for {path} did so, by the repository's {known}: publish it (overlaid fleet publish); "
        "overlaid fleet repo status shows who may sign for which names"
    )


def other(path: str, role: str, named: str, asked: str) -> UnknownTarget:
    """``role`` signed for another package of this name and version; ``named``, ``asked``: digests."""
    return UnknownTarget(
        f"{role} signed for {path} with digest {named[:12]}, not {asked[:12]}: refused. A published version never "
        "changes: publish what you have under another version, and deploy that"
    )


def _minute(when: datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M UTC")
