"""A folder that is whole or absent."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.errors import UsageError
from agent.package import disk
from agent.paths import exists


def check_absent(out: Path) -> None:
    """UsageError when there is something at ``out``."""
    if exists(out):
        raise UsageError(f"{out} exists; remove it or choose another folder")


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
