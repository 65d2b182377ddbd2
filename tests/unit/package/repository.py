"""A TUF repository in memory, made with python-tuf: root with three keys of which two must sign, targets that delegate
to teams, snapshot and timestamp. Honest by itself; ``files`` is what a server would give, to be kept, mixed, damaged.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    TOP_LEVEL_ROLE_NAMES,
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

NOW = 1_790_000_000.0  # Unix seconds, 2026-09-21: everything here counts from it
DAY = 86_400.0
TEAM = "packages"
VALID_DAYS = {"root": 365, "targets": 365, "snapshot": 7, "timestamp": 7}  # teams as targets


class MadeRepository:
    """``given``: the first root, as a node has it. ``signers``: the keys by role; ``metadata``: the newest of each
    role, to be changed and then signed by ``renew``. ``asked``: the names that ``get`` was asked for."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.signers: dict[str, list[CryptoSigner]] = {
            role: [CryptoSigner.generate_ed25519() for _ in range(3 if role == "root" else 1)]
            for role in sorted(TOP_LEVEL_ROLE_NAMES)
        }
        root = Root(consistent_snapshot=True)
        for role, signers in self.signers.items():
            for signer in signers:
                root.add_key(signer.public_key, role)
        root.roles["root"].threshold = 2
        self.metadata: dict[str, Metadata[Any]] = {
            "root": Metadata(root),
            "targets": Metadata(Targets()),
            "snapshot": Metadata(Snapshot()),
            "timestamp": Metadata(Timestamp()),
        }
        for role, metadata in self.metadata.items():
            metadata.signed.version = 0
            metadata.signed.expires = self._expires(role)
        self.renew("root")
        self.given = self.files["1.root.json"]
        self.delegate(TEAM, ["*/*"], first=False)

    # -- what an honest server does ------------------------------------------------------------------------------

    def get(self, name: str, _limit: int) -> bytes | None:
        """As ``client.find`` asks."""
        self.asked.append(name)
        return self.files.get(name)

    def add(self, path: str, data: bytes, role: str = TEAM) -> None:
        """Publish a target, signed by ``role``."""
        self.metadata[role].signed.targets[path] = TargetFile.from_data(path, data, ["sha256"])
        self.publish(role)

    def publish(self, *roles: str) -> None:
        """A new version of these targets roles, and of the snapshot and the timestamp that name them."""
        for role in roles:
            self.renew(role)
        for role, metadata in self.metadata.items():
            if role not in ("root", "snapshot", "timestamp"):
                name = f"{metadata.signed.version}.{role}.json"
                self.metadata["snapshot"].signed.meta[f"{role}.json"] = self._meta_file(role, name)
        self.renew("snapshot")
        version = self.metadata["snapshot"].signed.version
        self.metadata["timestamp"].signed.snapshot_meta = self._meta_file(
            "snapshot", f"{version}.snapshot.json"
        )
        self.renew("timestamp")

    def renew(self, role: str, version: int | None = None) -> bytes:
        """Sign the role's metadata as its next version (or this one) by all its keys; only its own file changes."""
        signed = self.metadata[role].signed
        signed.version = signed.version + 1 if version is None else version
        signed.expires = max(signed.expires, self._expires(role))
        return self.write(role)

    def write(self, role: str, signers: Iterable[CryptoSigner] | None = None) -> bytes:
        """Sign what is there, by these keys, and serve it."""
        metadata = self.metadata[role]
        metadata.signatures.clear()
        for signer in self.signers[role] if signers is None else signers:
            metadata.sign(signer, append=True)
        name = "timestamp.json" if role == "timestamp" else f"{metadata.signed.version}.{role}.json"
        self.files[name] = metadata.to_bytes()
        return self.files[name]

    def delegate(self, team: str, patterns: list[str], first: bool = True) -> None:
        """A team that may sign for these paths, before the others (nobody else then may) or after them."""
        self.signers[team] = [CryptoSigner.generate_ed25519()]
        self.metadata[team] = Metadata(Targets(expires=self._expires(team)))
        self.metadata[team].signed.version = 0
        targets = self.metadata["targets"].signed
        before = {} if targets.delegations is None else dict(targets.delegations.roles)
        role = DelegatedRole(team, [], 1, first, patterns)
        keys = {} if targets.delegations is None else targets.delegations.keys
        targets.delegations = Delegations(keys, {team: role, **before} if first else {**before, team: role})
        targets.add_key(self.signers[team][0].public_key, team)
        self.publish(team, "targets")

    # -- what goes wrong -----------------------------------------------------------------------------------------

    def expire(self, role: str, at: float) -> None:
        """Publish the role, and what names it, with this time of expiry (Unix seconds)."""
        self.metadata[role].signed.expires = datetime.fromtimestamp(at, timezone.utc)
        if role in ("root", "timestamp"):
            self.metadata[role].signed.version += 1
            self.write(role)
            return
        self.metadata[role].signed.version += 1
        self.write(role)
        if role == "snapshot":
            version = self.metadata[role].signed.version
            self.metadata["timestamp"].signed.snapshot_meta = self._meta_file(
                role, f"{version}.snapshot.json"
            )
            self.renew("timestamp")
        else:
            self.publish()

    def rotate(self, role: str, lost: int = 0) -> None:
        """A new key in place of the first of a top-level role, by a new root. ``lost``: so many of the old root's keys
        cannot sign any more."""
        root = self.metadata["root"].signed
        old = self.signers[role]
        new = [*old[1:], CryptoSigner.generate_ed25519()]
        root.revoke_key(old[0].public_key.keyid, role)
        root.add_key(new[-1].public_key, role)
        able = [*self.signers["root"][lost:], *(new[-1:] if role == "root" else ())]
        self.signers[role] = new
        root.version += 1
        self.write("root", able)
        if role != "root":
            self.publish(*(() if role in ("snapshot", "timestamp") else (role,)))

    def copy(self) -> MadeRepository:
        """Another one with the same keys and state, to go another way."""
        other = copy.copy(self)
        other.metadata, other.files = copy.deepcopy(self.metadata), dict(self.files)
        other.signers, other.asked = {role: list(keys) for role, keys in self.signers.items()}, []
        return other

    # -- inside --------------------------------------------------------------------------------------------------

    def _expires(self, role: str) -> datetime:
        days = VALID_DAYS.get(role, VALID_DAYS["targets"])
        return datetime.fromtimestamp(self.now, timezone.utc) + timedelta(days=days)

    def _meta_file(self, role: str, name: str) -> MetaFile:
        return MetaFile.from_data(self.metadata[role].signed.version, self.files[name], ["sha256"])


def team_goes_back(repo: MadeRepository) -> None:
    """A new snapshot names an old version of the team packages."""
    repo.metadata["packages"].signed.version = 1
    repo.write("packages")
    repo.publish()


def snapshot_goes_back(repo: MadeRepository) -> None:
    """A new timestamp names an old snapshot."""
    repo.metadata["timestamp"].signed.snapshot_meta.version = 1
    repo.renew("timestamp")
