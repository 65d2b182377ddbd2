"""Where the FPGA service loads bitstreams from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.devices.fpga_service.folders import MAX_FILES, check_folder
from agent.errors import OverlayLoadError

ME = {os.getuid()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "overlays" / "npu"
    (folder / "release").mkdir(parents=True)
    (folder / "overlay.toml").write_text("")
    (folder / "release" / "npu.bit").write_text("")
    for path in (tmp_path / "overlays", folder, folder / "release", *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return tmp_path / "overlays"


def test_a_good_folder(root: Path) -> None:
    assert check_folder(str(root / "npu"), [Path("/nonexistent"), root], ME) == root / "npu"


def test_a_root_that_is_a_link(root: Path) -> None:
    link = root.parent / "link"
    link.symlink_to(root)
    assert check_folder(str(link / "npu"), [link], ME) == root / "npu"


@pytest.mark.parametrize("name", ["npu/../../secret", "../secret", "/etc", "link"])
def test_outside_is_refused(root: Path, name: str) -> None:
    (root.parent / "secret").mkdir()
    (root / "link").symlink_to(root.parent / "secret")
    with pytest.raises(OverlayLoadError, match=r"not below|no absolute path"):
        check_folder(str(root / name), [root], ME)


@pytest.mark.parametrize("name", ["npu/../npu", "npu\0", "absent", "npu/overlay.toml/x"])
def test_strange_names_are_refused(root: Path, name: str) -> None:
    with pytest.raises(OverlayLoadError):
        check_folder(str(root / name), [root], ME)
    with pytest.raises(OverlayLoadError):
        check_folder(name, [root], ME)


@pytest.mark.parametrize("path", ["", "npu", "npu/overlay.toml", "npu/release", "npu/release/npu.bit"])
@pytest.mark.parametrize("mode", [0o020, 0o002])
def test_what_others_may_write_is_refused(root: Path, path: str, mode: int) -> None:
    target = root / path
    target.chmod(target.stat().st_mode | mode)
    with pytest.raises(OverlayLoadError, match="others than its owner may write"):
        check_folder(str(root / "npu"), [root], ME)


def test_what_others_own_is_refused(root: Path) -> None:
    with pytest.raises(OverlayLoadError, match=f"belongs to user {os.getuid()}"):
        check_folder(str(root / "npu"), [root], {os.getuid() + 1})


def test_links_inside_are_refused(root: Path) -> None:
    (root / "npu" / "release" / "other.bit").symlink_to("/etc/shadow")
    with pytest.raises(OverlayLoadError, match="symbolic link"):
        check_folder(str(root / "npu"), [root], ME)


def test_too_many_files_are_refused(root: Path) -> None:
    for number in range(MAX_FILES):
        (root / "npu" / f"{number}").touch(0o600)
    with pytest.raises(OverlayLoadError, match="more than 256 files"):
        check_folder(str(root / "npu"), [root], ME)
