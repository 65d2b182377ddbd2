"""An overlay as one file of a package: a ZIP of ``overlay.toml``, its bitstream where there is one, and a self-test."""

from __future__ import annotations

import io
import os
import re
import shutil
import zipfile
import zlib
from pathlib import Path

from agent.errors import OverlayLoadError, one_line
from agent.overlay.spec import SPEC_NAME, Overlay, parse_spec

SELF_TEST_NAME = "selftest.npu"
MAX_BYTES = 128 << 20  # of all files, unpacked; a bitstream of the largest Kria is 8 MB
MAX_FILES = 64
_WANTED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.(?:toml|npu|bit|hwh)")
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that ZIP knows: equal contents give equal bytes


def write_archive(folder: Path, self_test: bytes) -> bytes:
    """The overlay in ``folder``: ``overlay.toml`` and what lies in ``release/`` for boards."""
    found = [folder / SPEC_NAME, *sorted((folder / "release").glob("*.*"))]
    files = {path.name: path.read_bytes() for path in found if _WANTED.fullmatch(path.name)}
    files[SELF_TEST_NAME] = self_test
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, _TIME), data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def unpack_archive(path: Path, into: Path) -> Overlay:
    """Write the archive's files to the folder ``into``, whole or not at all; what they describe.

    Raises OverlayLoadError for anything that ``write_archive`` does not make.
    """
    unfinished = into.with_name(f".{into.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            if sum(entry.file_size for entry in entries) > MAX_BYTES or len(entries) > MAX_FILES:
                raise ValueError(f"it holds more than {MAX_BYTES >> 20} MiB or {MAX_FILES} files")
            if len(set(names)) != len(names) or not all(map(_WANTED.fullmatch, names)):
                raise ValueError("it holds files that no overlay has, or a name twice")
            if not {SPEC_NAME, SELF_TEST_NAME} <= set(names):
                raise ValueError(f"it lacks {SPEC_NAME} or {SELF_TEST_NAME}")
            if any(entry.compress_type not in _COMPRESSIONS for entry in entries):
                raise ValueError("a file is compressed otherwise than by deflate")
            for entry in entries:
                (unfinished / entry.filename).write_bytes(archive.read(entry))
        spec = parse_spec((unfinished / SPEC_NAME).read_bytes())
        try:
            unfinished.rename(into)
        except OSError:
            if not into.is_dir():  # another process was faster
                raise
        return spec
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as error:
        raise OverlayLoadError(
            f"{path.name} is no package of an overlay: {one_line(error)}; pack it again"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
