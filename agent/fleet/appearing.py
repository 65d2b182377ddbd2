"""A folder that is whole or absent."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.errors import UsageError
from agent.package import disk
from agent.paths import exists


def check_absent(out: Path) -> None:
    """UsageError when there is something at ``out``, be it a link to nowhere."""
    if exists(out) or out.is_symlink():
        raise UsageError(f"{out} exists; remove it or choose another folder")


def check_writable(out: Path) -> None:
    """StoreError when no folder can be made where ``out`` will appear: to be known before long work."""
    try:
        parent = next(each for each in out.absolute().parents if exists(each))
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=disk.LEFTOVER, dir=parent):
            pass
    except OSError as error:
        raise disk.store_error(out, error) from error


@contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that takes its name when the block ends without an error. Raises StoreError."""
    unfinished = out.parent / f".{out.name}.{os.getpid()}{disk.LEFTOVER}"
    try:
        for leftover in out.parent.glob(f".{out.name}.*{disk.LEFTOVER}"):
            shutil.rmtree(leftover)
        unfinished.mkdir(parents=True)
        yield unfinished
        check_absent(out)
        unfinished.rename(out)
    except OSError as error:
        raise disk.store_error(Path(error.filename or out), error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
