"""What a TUF repository says of one package: the client workflow (TUF specification 1.0, section 5.3) by python-tuf.

The only module of the node that imports python-tuf. It does not know how files come from the repository.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from tuf.api import exceptions
from tuf.api.metadata import TOP_LEVEL_ROLE_NAMES, Metadata, Root, Signed, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError, SerializationError
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from agent.errors import RepositoryError, one_line
from agent.package import disk
from agent.package.tuf import problems
from agent.package.tuf.problems import Seen, role_of
from agent.types import check_metadata_name

ROOT_LIMIT = 64 << 10
TIMESTAMP_LIMIT = 16 << 10
SNAPSHOT_LIMIT = 256 << 10
TARGETS_LIMIT = 960 << 10
LIMITS = {Root.type: ROOT_LIMIT, Timestamp.type: TIMESTAMP_LIMIT, Snapshot.type: SNAPSHOT_LIMIT}  # bytes
NAMED_BY = {Timestamp.type: Root.type, Snapshot.type: Timestamp.type}
MAX_WHY = 200  # characters of what strangers may have a say in
MAX_KEPT_BYTES = 16 << 20  # of delegated roles; honest teams have some KB each
NO_YEAR_10000 = 253_402_300_799.0

Get = Callable[[str, int], bytes | None]


@dataclass(frozen=True, slots=True)
class Request:
    """``root``: the root that this node was given; ``folder``: what it has seen of the repository, kept there; ``now``:
    Unix seconds; ``path``: of the target; ``keep_newer``: see ``MetadataSource``."""

    root: bytes
    folder: Path
    now: float
    path: str
    keep_newer: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """The target: its length in bytes, its SHA-256 in hex, and the role that signed for it."""

    length: int
    sha256: str
    role: str


def find(request: Request, get: Get) -> Found:
    """The target that the repository's newest metadata has for ``request.path``. One call at a time for a folder.

    ``get(name, limit)`` gives the bytes of ``timestamp.json``, ``3.snapshot.json`` and so on, None when there is no
    such file; of one that is larger than ``limit`` bytes any more than ``limit``. What it raises comes through. Raises
    RepositoryError (every subclass but RootMissing), StoreError.
    """
    if not request.root:  # which python-tuf 6 takes for "trust what is in the folder"
        raise problems.damaged("", "empty")
    disk.make_folder(request.folder)
    disk.remove_leftovers(request.folder)
    files = _Files(request, get)
    try:
        _limit(request.folder)
        updater = files.updater = _Updater(request, files)
        target = updater.get_targetinfo(request.path)
    except exceptions.RepositoryError as error:
        raise _explained(error, files) from error
    except OSError as error:
        raise disk.store_error(request.folder, error) from error
    if target is None:
        raise problems.unknown(request.path, updater.summary())
    sha256 = target.hashes.get("sha256")
    if sha256 is None:
        raise problems.damaged(f"target {request.path}", "no SHA-256")
    return Found(target.length, sha256, updater.signer(request.path))


class _Files(FetcherInterface):
    """The repository's files as ``get`` gives them. ``name``, ``data``: the last one, with which something may be
    wrong; at first the root that the node was given."""

    def __init__(self, request: Request, get: Get) -> None:
        self.request, self._get = request, get
        self.name, self.data = "", request.root
        self.updater: _Updater | None = None

    @property
    def role(self) -> str:
        return role_of(self.name) if self.name else Root.type

    def seen(self) -> Seen | None:
        """What the last one says of itself."""
        try:
            return _seen(self.role, Metadata[Root].from_bytes(self.data).signed)  # of any type
        except exceptions.RepositoryError:
            return None

    def known(self, role: str) -> Signed | None:
        """What was verified so far; it may have expired."""
        return None if self.updater is None else self.updater.known(role)

    def download_bytes(self, url: str, _max_length: int) -> bytes:
        """The whole file: its length, where metadata says so, is checked together with its hash."""
        name = url.removeprefix("/")
        role = role_of(name)
        try:
            check_metadata_name(name)
        except ValueError as error:
            by = "timestamp.json" if role == Snapshot.type else "a delegation or the snapshot"
            raise problems.damaged(by, _why(error)) from error
        self._refuse_expired(role)
        limit = LIMITS.get(role, TARGETS_LIMIT)
        data = self._get(name, limit)
        if data is None and role == Root.type:
            raise exceptions.DownloadHTTPError("there is no newer root", 404)
        if data is None:
            raise problems.missing(name, self.request.keep_newer)
        if len(data) > limit:
            raise problems.too_large(name, limit)
        self.name, self.data = name, data
        return self._own_timestamp() if role == Timestamp.type and self.request.keep_newer else data

    def _fetch(self, url: str) -> Iterator[bytes]:
        return iter((self.download_bytes(url, TARGETS_LIMIT),))

    def _refuse_expired(self, role: str) -> None:
        """What names the file must not have expired: fetching more would be of no use."""
        before = NAMED_BY.get(role, Snapshot.type)
        signed = None if role == Root.type else self.known(before)
        if signed is not None and signed.is_expired(_date(self.request)):
            raise problems.expired(_seen(before, signed), _date(self.request))

    def _own_timestamp(self) -> bytes:
        """The one that this node has seen, where that is newer: an old folder of a package is no attack."""
        own, seen = self.known(Timestamp.type), self.seen()
        if own is None or seen is None or seen.version >= own.version:
            return self.data
        return (self.request.folder / "timestamp.json").read_bytes()


class _Updater(Updater):
    """python-tuf's, with the time that it is told, files that survive a power cut, and a memory of who signed.

    The overridden methods are internal to python-tuf (6 and 7), which has no public ones for this.
    """

    def __init__(self, request: Request, files: _Files) -> None:
        self.loading = ""  # the role whose targets are looked through
        self._looked_through: dict[str, Targets] = {}
        config = UpdaterConfig(
            root_max_length=ROOT_LIMIT,
            timestamp_max_length=TIMESTAMP_LIMIT,
            snapshot_max_length=SNAPSHOT_LIMIT,
            targets_max_length=TARGETS_LIMIT,
        )
        super().__init__(str(request.folder), "", fetcher=files, config=config, bootstrap=request.root)
        self._trusted_set.reference_time = _date(request)

    def known(self, role: str) -> Signed | None:
        """What was verified so far; it may have expired."""
        return self._trusted_set.get(role)

    def summary(self) -> str:
        """What was looked through, for texts."""
        return ", ".join(str(_seen(role, signed)) for role, signed in self._looked_through.items())[:MAX_WHY]

    def signer(self, path: str) -> str:
        """The role that the target was found in: the last one."""
        return next(
            role for role in reversed(self._looked_through) if path in self._looked_through[role].targets
        )

    def _load_targets(self, role: str, parent_role: str) -> Targets:
        self.loading = role
        found = super()._load_targets(role, parent_role)
        self._looked_through[role] = found
        return found

    def _persist_file(self, filename: str, data: bytes) -> None:
        path = Path(filename)
        if not path.exists() or path.read_bytes() != data:
            disk.write(path, data)


def _limit(folder: Path) -> None:
    """Whoever stole keys could delegate to new names each day, and fill the disk: then all are fetched again."""
    kept = [path for path in folder.glob("*.json") if path.stem not in TOP_LEVEL_ROLE_NAMES]
    if sum(path.stat().st_size for path in kept) > MAX_KEPT_BYTES:
        for path in kept:
            disk.remove(path)


def _explained(error: exceptions.RepositoryError, files: _Files) -> RepositoryError:
    """python-tuf's error as ours, by what was being loaded: the same may be an old timestamp or a mixed snapshot."""
    name, seen, why = files.name, files.seen(), _why(error)
    if isinstance(error, exceptions.ExpiredMetadataError):
        return _expired(files, why)
    if isinstance(error, exceptions.UnsignedMetadataError):
        return problems.wrong_keys(name, seen, why)
    if isinstance(error, exceptions.LengthOrHashMismatchError):
        return problems.mismatch(name, seen, why)
    if isinstance(error, DeserializationError | SerializationError) or seen is None:
        return problems.damaged(name, _why(error.__cause__ or error))
    if isinstance(error, exceptions.BadVersionNumberError):
        return _other_version(files, seen, why)
    if files.role == Snapshot.type and "missing info" in why:
        return problems.removed(seen)
    snapshot = files.known(Snapshot.type)
    if snapshot is not None and "not part of snapshot" in why:  # which may be here since long
        return problems.mismatch(f"{snapshot.version}.snapshot.json", _seen(Snapshot.type, snapshot), why)
    return problems.mismatch(name, seen, why) if name else problems.damaged(name, why)


def _expired(files: _Files, why: str) -> RepositoryError:
    now = _date(files.request)
    for role in (Root.type, Timestamp.type, Snapshot.type):
        signed = files.known(role)
        if signed is not None and signed.is_expired(now):
            return problems.expired(_seen(role, signed), now)
    seen = files.seen()  # targets, which are known only when they are valid
    return problems.mismatch(files.name, seen, why) if seen is None else problems.expired(seen, now)


def _other_version(files: _Files, seen: Seen, why: str) -> RepositoryError:
    """Older than what this node has seen, or not the one that was named."""
    known = files.known(files.role)
    if files.role == Timestamp.type and isinstance(known, Timestamp):
        if seen.version < known.version:
            return problems.rollback(str(seen), str(_seen(files.role, known)))
        named = Metadata[Timestamp].from_bytes(files.data).signed.snapshot_meta.version
        return problems.rollback(
            f"{seen} with snapshot version {named}", f"snapshot version {known.snapshot_meta.version}"
        )
    timestamp = files.known(Timestamp.type)
    named_by = timestamp.snapshot_meta.version if isinstance(timestamp, Timestamp) else None
    if files.role == Snapshot.type and seen.version == named_by and isinstance(known, Snapshot):
        return _older_role(files, seen, known)
    if files.role == Root.type and known is not None and seen.version < known.version:
        return problems.rollback(str(seen), str(_seen(Root.type, known)))
    return problems.mismatch(files.name, seen, why)


def _older_role(files: _Files, seen: Seen, known: Snapshot) -> RepositoryError:
    metas = Metadata[Snapshot].from_bytes(files.data).signed.meta
    name, meta = next((name, meta) for name, meta in known.meta.items() if metas[name].version < meta.version)
    role = role_of(name)
    return problems.rollback(
        f"{seen} with {role} version {metas[name].version}", f"{role} version {meta.version}"
    )


def _why(error: BaseException) -> str:
    return one_line(error)[:MAX_WHY]


def _seen(role: str, signed: Signed) -> Seen:
    return Seen(role, signed.version, signed.expires)


def _date(request: Request) -> datetime:
    return datetime.fromtimestamp(min(max(request.now, 0.0), NO_YEAR_10000), timezone.utc)
