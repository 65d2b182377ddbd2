from __future__ import annotations

import base64
import json

import pytest

from agent.errors import BadSignature, BlockError, ManifestError, MessageError, UnknownKey
from agent.package.manifest import MAX_ENVELOPE_BYTES, Block
from agent.package.verify import (
    VerifiedPackage,
    check_block,
    check_identity,
    digest_of,
    manifest_of,
    verify_package,
)
from agent.trust import PrivateKey, keyring, seal
from tests.unit.package.samples import KEY, KEYS, sample

SAMPLE = sample()


def test_a_signed_manifest_is_verified() -> None:
    package = verify_package(SAMPLE.envelope, KEYS, SAMPLE.digest)
    assert package.manifest == SAMPLE.manifest
    assert package.key_id == KEY.public.id
    check_identity(package, "net", "1.0.0")
    with pytest.raises(ManifestError, match="asked for net 2"):
        check_identity(package, "net", "2")


def test_nobody_else_makes_a_verified_package() -> None:
    with pytest.raises(TypeError):
        VerifiedPackage(SAMPLE.manifest, SAMPLE.digest, "me", SAMPLE.envelope)


def test_other_bytes_than_the_digest_names() -> None:
    with pytest.raises(BlockError, match="expected " + "0" * 64):
        verify_package(SAMPLE.envelope, KEYS, "0" * 64)


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(UnknownKey, match=KEY.public.id):
        verify_package(SAMPLE.envelope, keyring([PrivateKey.generate().public]))


def test_a_changed_payload_is_refused() -> None:
    envelope = json.loads(SAMPLE.envelope)
    payload = base64.b64decode(envelope["payload"]).replace(b"1.0.0", b"9.0.0")
    envelope["payload"] = base64.b64encode(payload).decode()
    with pytest.raises(BadSignature):
        verify_package(json.dumps(envelope).encode(), KEYS)


def test_a_signature_for_another_purpose_is_refused() -> None:
    with pytest.raises(MessageError):
        verify_package(seal("command", SAMPLE.manifest.encode(), KEY), KEYS)


def test_a_signed_envelope_around_nonsense_is_refused() -> None:
    with pytest.raises(ManifestError):
        verify_package(seal("manifest", b"{}", KEY), KEYS)


@pytest.mark.parametrize("data", [b"", b"null", b"{}", b"[" * 100_000])
def test_not_an_envelope(data: bytes) -> None:
    with pytest.raises(MessageError):
        verify_package(data, KEYS)


def test_an_endless_envelope_is_refused_unread() -> None:
    with pytest.raises(ManifestError, match="more than"):
        verify_package(b" " * (MAX_ENVELOPE_BYTES + 1), KEYS)


def test_blocks_of_wrong_size_or_content() -> None:
    block = Block(sha256=digest_of(b"data"), size=4)
    check_block(block, b"data")
    with pytest.raises(BlockError, match="has 3 bytes, expected 4"):
        check_block(block, b"dat")
    with pytest.raises(BlockError, match="does not match its digest"):
        check_block(block, b"dat4")


def test_what_an_envelope_says_can_be_told_without_a_key() -> None:
    one = sample()
    assert manifest_of(one.envelope) == one.manifest
    for damaged in (b"", b"{}", b"[1]", one.envelope[:-40], b'{"payload": "!"}', b'{"payload": "e30="}'):
        with pytest.raises(ManifestError):
            manifest_of(damaged)
