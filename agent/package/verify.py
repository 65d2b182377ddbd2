"""Verification: pure, and the only maker of a VerifiedPackage.

The joint where a TUF repository replaces the manifest's own signature: everything after it takes a VerifiedPackage.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field

from agent.errors import BlockError, ManifestError
from agent.package.manifest import MAX_ENVELOPE_BYTES, Block, Manifest, parse_manifest
from agent.trust import Keyring, unseal

_MADE_HERE = object()


@dataclass(frozen=True, slots=True)
class VerifiedPackage:
    """A manifest that a trusted key signed. ``digest``: SHA-256 of ``envelope``, the signed manifest's exact bytes."""

    manifest: Manifest
    digest: str
    key_id: str
    envelope: bytes = field(repr=False)
    _proof: object = field(repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        if self._proof is not _MADE_HERE:
            raise TypeError("a VerifiedPackage is made by verify_package only")


def digest_of(data: bytes) -> str:
    """SHA-256 in lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def manifest_of(envelope: bytes) -> Manifest:
    """What a package says it is, its signature not checked: to tell people, never to act on. Raises ManifestError."""
    try:
        return parse_manifest(base64.b64decode(json.loads(envelope)["payload"], validate=True))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ManifestError(
            "the package's envelope is damaged; pack it again: overlaid fleet pack"
        ) from error


def verify_package(envelope: bytes, keys: Keyring, expected_digest: str | None = None) -> VerifiedPackage:
    """Check digest, signature and content of a signed manifest.

    Raises BlockError (other bytes than the digest names), MessageError, UnknownKey, BadSignature, ManifestError.
    """
    if len(envelope) > MAX_ENVELOPE_BYTES:
        raise ManifestError(
            f"signed manifest has {len(envelope)} bytes, more than {MAX_ENVELOPE_BYTES}: refused"
        )
    digest = digest_of(envelope)
    if expected_digest is not None and digest != expected_digest:
        raise BlockError(
            f"signed manifest has digest {digest}, expected {expected_digest}: fetched bytes are wrong"
        )
    opened = unseal("manifest", envelope, keys)
    return VerifiedPackage(parse_manifest(opened.payload), digest, opened.key_id, envelope, _MADE_HERE)


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
