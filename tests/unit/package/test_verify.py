from __future__ import annotations

import pytest

from agent.errors import BlockError, ManifestError
from agent.package.manifest import MAX_MANIFEST_BYTES, Block
from agent.package.verify import (
    Trusted,
    VerifiedPackage,
    check_block,
    check_identity,
    digest_of,
    target_path,
    verify_package,
)
from tests.unit.package.samples import sample

SAMPLE = sample()


def test_a_manifest_whose_digest_is_trusted_is_verified() -> None:
    package = verify_package(SAMPLE.encoded, Trusted(SAMPLE.digest, "packages"))
    assert (package.manifest, package.digest, package.encoded) == (
        SAMPLE.manifest,
        SAMPLE.digest,
        SAMPLE.encoded,
    )
    check_identity(package, "net", "1.0.0")
    with pytest.raises(ManifestError, match="asked for net 2"):
        check_identity(package, "net", "2")


def test_nobody_else_makes_a_verified_package() -> None:
    with pytest.raises(TypeError):
        VerifiedPackage(SAMPLE.manifest, SAMPLE.digest, SAMPLE.encoded)


def test_other_bytes_than_the_digest_names() -> None:
    with pytest.raises(BlockError, match="expected " + "0" * 64):
        verify_package(SAMPLE.encoded, Trusted("0" * 64))
    with pytest.raises(BlockError, match="fetched bytes are wrong"):
        verify_package(SAMPLE.encoded.replace(b"1.0.0", b"9.0.0"), Trusted(SAMPLE.digest))


@pytest.mark.parametrize("data", [b"", b"null", b"{}", b"[" * 100_000, SAMPLE.encoded[:-40]])
def test_trusted_bytes_that_are_no_manifest(data: bytes) -> None:
    with pytest.raises(ManifestError):
        verify_package(data, Trusted(digest_of(data)))


def test_an_endless_manifest_is_refused_unread() -> None:
    with pytest.raises(ManifestError, match="more than"):
        verify_package(b" " * (MAX_MANIFEST_BYTES + 1), Trusted(SAMPLE.digest))


def test_the_repository_calls_a_package_by_name_and_version() -> None:
    assert target_path("digits", "1.2.0+b") == "digits/1.2.0+b.json"


def test_blocks_of_wrong_size_or_content() -> None:
    block = Block(sha256=digest_of(b"data"), size=4)
    check_block(block, b"data")
    with pytest.raises(BlockError, match="has 3 bytes, expected 4"):
        check_block(block, b"dat")
    with pytest.raises(BlockError, match="does not match its digest"):
        check_block(block, b"dat4")
