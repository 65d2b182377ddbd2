from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.errors import BlockError, BlockMissing, ManifestError, StoreError
from agent.package.directory import PackageDir
from agent.package.manifest import MAX_BLOCK_BYTES, MAX_MANIFEST_BYTES
from tests.unit.package.samples import sample


def test_a_folder_gives_its_manifest_and_blocks(tmp_path: Path) -> None:
    package = sample()
    folder = PackageDir(package.write(tmp_path / "package"))
    assert folder.manifest() == package.encoded
    assert {sha: folder.block(sha) for sha in package.blocks} == package.blocks


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    folder = PackageDir(tmp_path)
    with pytest.raises(ManifestError, match="is not a package"):
        folder.manifest()
    with pytest.raises(BlockMissing, match="0" * 64):
        folder.block("0" * 64)
    with pytest.raises(ValueError, match="digest"):
        folder.block("../manifest.json")


def test_endless_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "blocks").mkdir()
    (tmp_path / "blocks" / ("0" * 64)).write_bytes(bytes(MAX_BLOCK_BYTES + 1))
    (tmp_path / "manifest.json").write_bytes(bytes(MAX_MANIFEST_BYTES + 1))
    with pytest.raises(BlockError, match="larger than"):
        PackageDir(tmp_path).block("0" * 64)
    with pytest.raises(ManifestError, match="larger than"):
        PackageDir(tmp_path).manifest()


def test_a_pipe_in_a_files_place_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(ManifestError, match="not a regular file"):
        PackageDir(tmp_path).manifest()


def test_the_metadata_of_when_it_was_published_lies_beside(tmp_path: Path) -> None:
    folder = PackageDir(tmp_path)
    assert folder.metadata("timestamp.json", 100) is None
    (tmp_path / "metadata").mkdir()
    assert folder.metadata("timestamp.json", 100) is None
    (tmp_path / "metadata" / "3.vision.json").write_bytes(b"x" * 100)
    assert folder.metadata("3.vision.json", 100) == b"x" * 100
    assert folder.metadata("3.vision.json", 10) == b"x" * 11
    for name in ("../manifest.json", "timestamp", "3..json", "timestamp.json/", "T.json", ""):
        with pytest.raises(ValueError, match="metadata name"):
            folder.metadata(name, 100)
    os.mkfifo(tmp_path / "metadata" / "timestamp.json")
    with pytest.raises(StoreError, match="not a regular file"):
        folder.metadata("timestamp.json", 100)
