from __future__ import annotations

from pathlib import Path

import pytest

from agent.errors import BlockError, BlockMissing, ManifestError, PackageError, StoreError, UsageError
from agent.fleet.repository import Repository
from tests.unit.package.samples import Sample, sample


def sign(name: str, version: str, manifest: bytes) -> None:
    """Let nodes install it."""


def publish(root: Path, package: Sample, folder: Path) -> None:
    Repository(root).publish(package.write(folder), sign)


def test_what_is_published_is_found_and_served(tmp_path: Path) -> None:
    package, repository = sample(), Repository(tmp_path / "packages")
    shares: list[float] = []
    entry = repository.publish(package.write(tmp_path / "out"), sign, lambda _, share: shares.append(share))
    assert (entry.name, entry.version, entry.digest, entry.variants) == (
        "net",
        "1.0.0",
        package.digest,
        ("fp32",),
    )
    assert entry.size == sum(map(len, package.contents.values()))
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    again = Repository(tmp_path / "packages")
    assert again.find("net", "1.0.0") == package.digest
    assert again.versions() == (entry,)
    assert again.manifest(package.digest) == package.encoded
    assert {sha: again.block(sha) for sha in package.blocks} == package.blocks


def test_versions_share_blocks_and_keep_their_order(tmp_path: Path) -> None:
    for number, version in enumerate(("1.9.0", "1.10.0")):
        publish(tmp_path / "packages", sample(version), tmp_path / str(number))
    assert [entry.version for entry in Repository(tmp_path / "packages").versions()] == ["1.9.0", "1.10.0"]
    blocks = [path for path in (tmp_path / "packages" / "blocks").glob("*/*")]
    assert len(blocks) == len(sample().blocks)


def test_publishing_again_changes_nothing_but_heals(tmp_path: Path) -> None:
    package, repository = sample(), Repository(tmp_path / "packages")
    first = repository.publish(package.write(tmp_path / "out"), sign)
    sha = next(iter(package.blocks))
    (tmp_path / "packages" / "blocks" / sha[:2] / sha).write_bytes(b"?" * len(package.blocks[sha]))
    (tmp_path / "packages" / "manifests" / f"{package.digest}.json").write_bytes(b"damaged")
    with pytest.raises(BlockError, match="damaged"):
        repository.manifest(package.digest)
    assert repository.publish(tmp_path / "out", sign) == first
    assert repository.block(sha) == package.blocks[sha]
    assert repository.manifest(package.digest) == package.encoded


def test_a_version_never_changes(tmp_path: Path) -> None:
    publish(tmp_path / "packages", sample(), tmp_path / "one")
    with pytest.raises(ManifestError, match="raise version"):
        publish(tmp_path / "packages", sample(weights=b"v" * 5000), tmp_path / "two")
    assert Repository(tmp_path / "packages").find("net", "1.0.0") == sample().digest


def test_nodes_may_install_a_package_once_all_of_it_is_here(tmp_path: Path) -> None:
    package, repository = sample(), Repository(tmp_path / "packages")

    def sign(name: str, version: str, manifest: bytes) -> None:
        assert (name, version, manifest) == ("net", "1.0.0", package.encoded)
        assert repository.manifest(package.digest) == manifest
        assert all(map(repository.block, package.blocks))
        raise UsageError("not now")

    with pytest.raises(UsageError, match="not now"):
        repository.publish(package.write(tmp_path / "out"), sign)
    assert repository.versions() == ()  # deploy does not offer what nodes would refuse


@pytest.mark.parametrize("content", [None, b"", b"short", b"?" * 2048])
def test_a_lost_or_damaged_block_is_refused_and_nothing_is_indexed(
    tmp_path: Path, content: bytes | None
) -> None:
    package = sample()
    folder = package.write(tmp_path / "out")
    path = folder / "blocks" / package.manifest.files["net.onnx"].blocks[1].sha256
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    repository = Repository(tmp_path / "packages")
    with pytest.raises((BlockMissing, BlockError), match=path.name[:12]):
        repository.publish(folder, sign)
    assert repository.versions() == ()
    with pytest.raises(PackageError, match="not published"):
        repository.find("net", "1.0.0")


def test_what_is_not_there_is_named_with_what_is(tmp_path: Path) -> None:
    publish(tmp_path / "packages", sample(), tmp_path / "out")
    repository = Repository(tmp_path / "packages")
    with pytest.raises(PackageError, match=r"net@2 is not published; published: net@1\.0\.0"):
        repository.find("net", "2")
    with pytest.raises(PackageError, match="no version of other"):
        repository.find("other", "1")
    with pytest.raises(PackageError, match="Net"):
        repository.find("Net", "1")
    with pytest.raises(BlockMissing):
        repository.block("0" * 64)
    with pytest.raises(BlockMissing):
        repository.manifest("0" * 64)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"name": "net", "variants": []}'])
def test_a_damaged_index_entry_is_named(tmp_path: Path, content: bytes) -> None:
    publish(tmp_path / "packages", sample(), tmp_path / "out")
    (tmp_path / "packages" / "index" / "net@1.0.0.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"net@1\.0\.0\.json: damaged"):
        Repository(tmp_path / "packages").find("net", "1.0.0")


def test_leftovers_of_an_interrupted_publish_are_removed(tmp_path: Path) -> None:
    package = sample()
    left = tmp_path / "packages" / "blocks" / "aa" / "x.tmp"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    publish(tmp_path / "packages", package, tmp_path / "out")
    assert not left.exists()


def test_what_is_new_in_a_version_is_told_against_the_one_before(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "packages")
    first, last = sample("1.0.0"), sample("1.1.0", weights=b"w" * 4096 + b"v" * 904)
    entries = [
        repository.publish(package.write(tmp_path / str(number)), sign)
        for number, package in enumerate((first, sample("1.0.0", name="other"), last, sample("1.2.0")))
    ]
    assert repository.delta(entries[0]) is None
    assert repository.delta(entries[1]) is None
    changed = repository.delta(entries[2])
    assert changed is not None
    assert (changed.against, changed.new_bytes, changed.size) == ("1.0.0", 904, entries[2].size)
    assert changed.manifest_bytes == len(last.encoded)
    assert str(changed) == "1 KB of 6 KB are new against 1.0.0, and a manifest of 1 KB"
    back = repository.delta(entries[3])
    assert back is not None
    assert (back.against, back.new_bytes) == ("1.1.0", 904)
    assert repository.delta(repository.publish(tmp_path / "2", sign)) == changed
