from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.errors import BlockError, BlockMissing, ManifestError
from agent.package.directory import PackageDir
from agent.package.manifest import MAX_BLOCK_BYTES, MAX_ENVELOPE_BYTES
from tests.unit.package.samples import sample


def test_a_folder_gives_its_envelope_and_blocks(tmp_path: Path) -> None:
    package = sample()
    folder = PackageDir(package.write(tmp_path / "package"))
    assert folder.envelope() == package.envelope
    assert {sha: folder.block(sha) for sha in package.blocks} == package.blocks


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    folder = PackageDir(tmp_path)
    with pytest.raises(ManifestError, match="is not a package"):
        folder.envelope()
    with pytest.raises(BlockMissing, match="0" * 64):
        folder.block("0" * 64)
    with pytest.raises(ValueError, match="digest"):
        folder.block("../manifest.json")


def test_endless_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "blocks").mkdir()
    (tmp_path / "blocks" / ("0" * 64)).write_bytes(bytes(MAX_BLOCK_BYTES + 1))
    (tmp_path / "manifest.json").write_bytes(bytes(MAX_ENVELOPE_BYTES + 1))
    with pytest.raises(BlockError, match="larger than"):
        PackageDir(tmp_path).block("0" * 64)
    with pytest.raises(ManifestError, match="larger than"):
        PackageDir(tmp_path).envelope()


def test_a_pipe_in_a_files_place_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(ManifestError, match="not a regular file"):
        PackageDir(tmp_path).envelope()
