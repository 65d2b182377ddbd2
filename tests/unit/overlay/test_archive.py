"""Overlays as archives: what is packed is unpacked, and nothing else is."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import OverlayLoadError
from agent.overlay.archive import SELF_TEST_NAME, unpack_archive, write_archive
from agent.overlay.spec import SPEC_NAME, load_spec, overlay_folder

NPU = overlay_folder("npu")
DATA = write_archive(NPU, b"program")
FILES = {SPEC_NAME: (NPU / SPEC_NAME).read_bytes(), SELF_TEST_NAME: b"program"}


def zipped(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def unpack(folder: Path, data: bytes) -> None:
    (folder / "npu.overlay").write_bytes(data)
    unpack_archive(folder / "npu.overlay", folder / "npu")


def test_there_and_back(tmp_path: Path) -> None:
    (tmp_path / "npu.overlay").write_bytes(DATA)
    for _ in range(2):  # the second time it is there
        assert unpack_archive(tmp_path / "npu.overlay", tmp_path / "npu") == load_spec("npu")
    assert (tmp_path / "npu" / SELF_TEST_NAME).read_bytes() == b"program"
    assert write_archive(NPU, b"program") == DATA


def lying_about_its_size() -> bytes:
    return zipped({**FILES, "npu.bit": bytes(1 << 20)}).replace(
        struct.pack("<I", 1 << 20), struct.pack("<I", 9)
    )


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", "File is not a zip file"),
        (zipped({SPEC_NAME: FILES[SPEC_NAME]}), "lacks overlay.toml or selftest.npu"),
        (zipped({**FILES, "../x.bit": b""}), "files that no overlay has"),
        (zipped({**FILES, "/etc/x.bit": b""}), "files that no overlay has"),
        (zipped({**FILES, "a/x.bit": b""}), "files that no overlay has"),
        (zipped({**FILES, **{f"{n}.bit": b"" for n in range(64)}}), "more than 128 MiB or 64 files"),
        (zipped({**FILES, "npu.bit": bytes(128 << 20)}), "more than 128 MiB or 64 files"),
        (lying_about_its_size(), "Bad CRC-32"),
        (zipped(FILES, zipfile.ZIP_LZMA), "compressed otherwise than by deflate"),
        (zipped({**FILES, SPEC_NAME: b"x"}), "overlay.toml is no description"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_archive_of_an_overlay_is_refused(tmp_path: Path, data: bytes, named: str) -> None:
    with pytest.raises(OverlayLoadError) as refused:
        unpack(tmp_path, data)
    assert named in str(refused.value) and "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["npu.overlay"]


@given(st.lists(st.tuples(st.integers(0, len(DATA) - 1), st.integers(0, 255)), min_size=1, max_size=3))
def test_a_damaged_archive_is_refused_or_as_good_as_whole(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, int]]
) -> None:
    data = bytearray(DATA)
    for at, value in damage:
        data[at] = value
    folder = tmp_path_factory.mktemp("damaged")
    try:
        unpack(folder, bytes(data))
    except OverlayLoadError:
        assert not (folder / "npu").exists()
    else:
        assert (folder / "npu" / SPEC_NAME).read_bytes() == FILES[SPEC_NAME]
