"""Verification of content: pure, and the only maker of a VerifiedPackage. Who may name a digest, ``tuf`` decides."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from agent.errors import BlockError, ManifestError
from agent.package.manifest import MAX_MANIFEST_BYTES, Block, Manifest, parse_manifest

_MADE_HERE = object()


@dataclass(frozen=True, slots=True)
class Trusted:
    """A digest that may be installed: what the repository's metadata names, signed by ``role``; or, with none, what
    this node has installed."""

    digest: str
    role: str = ""


@dataclass(frozen=True, slots=True)
class VerifiedPackage:
    """A manifest whose digest is trusted. ``digest``: SHA-256 of ``encoded``, the manifest's exact bytes."""

    manifest: Manifest
    digest: str
    encoded: bytes = field(repr=False)
    _proof: object = field(repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        if self._proof is not _MADE_HERE:
            raise TypeError("a VerifiedPackage is made by verify_package only")


def digest_of(data: bytes) -> str:
    """SHA-256 in lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def target_path(name: str, version: str) -> str:
    """What the repository's metadata calls the manifest of this package."""
    return f"{name}/{version}.json"


def verify_package(data: bytes, trusted: Trusted) -> VerifiedPackage:
    """Check a manifest's size, digest and content, in this order.

    Raises BlockError (other bytes than the digest names), ManifestError.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise ManifestError(f"manifest has {len(data)} bytes, more than {MAX_MANIFEST_BYTES}: refused")
    digest = digest_of(data)
    if digest != trusted.digest:
        raise BlockError(f"manifest has digest {digest}, expected {trusted.digest}: fetched bytes are wrong")
    return VerifiedPackage(parse_manifest(data), digest, data, _MADE_HERE)


def check_identity(package: VerifiedPackage, name: str, version: str) -> None:
    """The package must be the one that was asked for; ManifestError otherwise."""
    manifest = package.manifest
    if (manifest.name, manifest.version) != (name, version):
        raise ManifestError(
            f"asked for {name} {version}, the package says {manifest.name} {manifest.version}: publish again"
        )


def check_block(block: Block, data: bytes) -> None:
    """Check a block's size, then its digest; BlockError otherwise."""
    if len(data) != block.size:
        raise BlockError(f"block {block.sha256[:12]} has {len(data)} bytes, expected {block.size}")
    if digest_of(data) != block.sha256:
        raise BlockError(
            f"block {block.sha256[:12]} does not match its digest: damaged in transfer or at the source"
        )
