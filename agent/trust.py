"""Keys, signatures and envelopes: Ed25519 (RFC 8032) over exact bytes. Imports no room."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from agent.errors import BadSignature, MessageError, TrustError, UnknownKey

PREFIX = "ed25519:"
KEY_ID = re.compile(r"[0-9a-f]{16}")
KINDS = ("desired", "command")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key; its text form is ``ed25519:`` and the raw 32 bytes in base64."""

    raw: bytes

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """Read the text form; TrustError, which does not repeat it, when it is not one: it may be a private key."""
        try:
            raw = base64.b64decode(text.removeprefix(PREFIX), validate=True)
        except (binascii.Error, ValueError) as error:
            raise TrustError(f"not a public key; expected {PREFIX} and base64") from error
        if not text.startswith(PREFIX) or len(raw) != 32:
            raise TrustError(f"not a public key; expected {PREFIX} and 32 bytes in base64")
        return cls(raw)

    @property
    def id(self) -> str:
        """First 16 hex digits of the key's SHA-256."""
        return hashlib.sha256(self.raw).hexdigest()[:16]

    def __str__(self) -> str:
        return PREFIX + base64.b64encode(self.raw).decode()

    def verify(self, signature: bytes, message: bytes) -> None:
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except InvalidSignature as error:
            raise BadSignature(f"the signature of key {self.id} does not match: refused") from error


@dataclass(frozen=True, slots=True, repr=False)
class PrivateKey:
    """A signing key; never printed."""

    _key: Ed25519PrivateKey

    @classmethod
    def generate(cls) -> PrivateKey:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> PrivateKey:
        """Read a PKCS#8 PEM file; TrustError when it is missing, unreadable or of another kind."""
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise TrustError(
                f"cannot read the signing key {path}: {error}; make one: overlaid fleet keys new"
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise TrustError(f"{path} is not an Ed25519 key; make one: overlaid fleet keys new")
        return cls(key)

    def pem(self) -> bytes:
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @property
    def public(self) -> PublicKey:
        raw = self._key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return PublicKey(raw)

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


Keyring = Mapping[str, PublicKey]


def keyring(keys: Iterable[PublicKey]) -> Keyring:
    """Trusted keys by id."""
    return {key.id: key for key in keys}


def _signed_bytes(kind: str, payload: bytes) -> bytes:
    # The kind is part of what is signed, so that a desired state can never be replayed as a command.
    return b"overlaid/v1\n" + kind.encode() + b"\n" + payload


def seal(kind: str, payload: bytes, key: PrivateKey) -> bytes:
    """Sign ``payload`` and return the envelope's exact bytes (JSON with the payload in base64)."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}")
    envelope = {
        "kind": kind,
        "key": key.public.id,
        "payload": base64.b64encode(payload).decode(),
        "signature": base64.b64encode(key.sign(_signed_bytes(kind, payload))).decode(),
    }
    return json.dumps(envelope, sort_keys=True).encode()


@dataclass(frozen=True, slots=True)
class Opened:
    """The verified content of an envelope."""

    key_id: str
    payload: bytes


def unseal(kind: str, data: bytes, keys: Keyring) -> Opened:
    """Verify an envelope and return what was signed.

    Raises MessageError (not an envelope), UnknownKey (no trusted key made it), BadSignature.
    """
    try:
        envelope = json.loads(data)
        if not isinstance(envelope, dict) or set(envelope) != {"kind", "key", "payload", "signature"}:
            raise ValueError("expected exactly kind, key, payload and signature")
        if envelope["kind"] != kind:
            raise ValueError(f"kind is {envelope['kind']!r}")
        payload = base64.b64decode(envelope["payload"], validate=True)
        signature = base64.b64decode(envelope["signature"], validate=True)
        key_id = envelope["key"]
        if not (isinstance(key_id, str) and KEY_ID.fullmatch(key_id)):
            raise ValueError("key is not 16 hex digits")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise MessageError(f"not a signed {kind}: {str(error)[:120]}") from error
    key = keys.get(key_id)
    if key is None:
        raise UnknownKey(
            f"{kind} signed by key {key_id}, which this node does not trust; see [trust] in its config"
        )
    key.verify(signature, _signed_bytes(kind, payload))
    return Opened(key_id, payload)
