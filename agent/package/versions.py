"""Which version of each model is current and which one it can go back to: one small file a model."""

from __future__ import annotations

import contextlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

from agent.errors import StoreError
from agent.package import disk
from agent.types import check_digest, check_name

log = logging.getLogger(__name__)
MAX_FILE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Versions:
    """Manifest digests; None: there is no such version."""

    current: str | None = None
    previous: str | None = None


class VersionFiles:
    """``folder/<model>.json``, each replaced atomically. Not thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        disk.make_folder(folder)

    def read(self, model: str) -> Versions:
        """The versions of a model, both None when it is not installed; StoreError when its file is damaged."""
        path = self._path(model)
        try:
            with path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES)
        except FileNotFoundError:
            return Versions()
        except OSError as error:
            raise disk.store_error(path, error) from error
        try:
            return _parse(data)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise StoreError(
                f"{path}: damaged ({str(error)[:120]}); deploying {model} again replaces it"
            ) from error

    def commit(self, model: str, digest: str) -> Versions:
        """Make ``digest`` current and the old current previous; the same digest again changes nothing.

        A damaged file is replaced: the version that is being activated is known to work.
        """
        check_digest(digest)
        try:
            old = self.read(model)
        except StoreError as error:
            log.warning("%s; it is replaced now, the way back to the version before is lost", error)
            old = Versions()
        if old.current == digest:
            return old
        return self._write(model, Versions(digest, old.current), old)

    def revert(self, model: str) -> Versions:
        """Make the previous version current; StoreError when there is none."""
        old = self.read(model)
        if old.previous is None:
            raise StoreError(f"{model} has no previous version to go back to; deploy one")
        return self._write(model, Versions(old.previous, None), old)

    def remove(self, model: str) -> None:
        disk.remove(self._path(model))

    def models(self) -> list[str]:
        """Names of the installed models."""
        return sorted(path.stem for path in self._folder.glob("*.json"))

    def _write(self, model: str, versions: Versions, old: Versions) -> Versions:
        try:
            disk.write(self._path(model), _encoded(versions))
        except StoreError:
            # It may have been renamed already: the next start must not find done what has failed.
            with contextlib.suppress(StoreError):
                if self.read(model) == versions:
                    self._put_back(model, old)
            raise
        return versions

    def _put_back(self, model: str, old: Versions) -> None:
        if old == Versions():
            self.remove(model)
        else:
            disk.write(self._path(model), _encoded(old))

    def _path(self, model: str) -> Path:
        return self._folder / f"{check_name(model, 'model')}.json"


def _encoded(versions: Versions) -> bytes:
    return json.dumps({"current": versions.current, "previous": versions.previous}).encode()


def _parse(data: bytes) -> Versions:
    value = json.loads(data)
    if not isinstance(value, dict) or set(value) != {"current", "previous"}:
        raise ValueError("expected exactly current and previous")
    for digest in value.values():
        if digest is not None:
            check_digest(digest)
    return Versions(value["current"], value["previous"])
