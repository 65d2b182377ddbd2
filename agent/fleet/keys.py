"""The operator's keys: ``keys/<name>.pem`` (PKCS#8, readable by the owner alone).

``commands`` signs desired states and commands; the others are the repository's (``agent.fleet.repo``).
"""

from __future__ import annotations

import errno
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from agent.errors import TrustError, UsageError
from agent.fleet.home import Home, unreadable
from agent.package import disk
from agent.paths import exists
from agent.trust import PrivateKey, PublicKey
from agent.types import check_name

COMMANDS = "commands"
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)  # of FAT, which USB sticks have


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """A key without its secret."""

    name: str
    public: PublicKey


def new_key(home: Home, name: str) -> KeyInfo:
    """Make a signing key; UsageError when the name is taken or not a name, StoreError."""
    path = _path(home, name)
    home.make()
    return KeyInfo(name, make_key(path).public)


def make_key(path: Path) -> PrivateKey:
    """A new key in a file of its own, its folder made when need be; UsageError when there is one, StoreError."""
    make_folder(path.parent)
    key = PrivateKey.generate()
    try:
        descriptor, temporary = tempfile.mkstemp(disk.LEFTOVER, dir=path.parent)  # mode 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(key.pem())
                file.flush()
                os.fsync(file.fileno())
            _take_name(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
        disk.sync(path.parent)
    except FileExistsError:
        raise UsageError(
            f"{path} exists; nodes trust it, so it is never replaced: choose another name"
        ) from None
    except OSError as error:
        raise disk.store_error(path, error) from error
    return key


def make_folder(path: Path) -> None:
    """A folder for keys, for this user alone when it has to be made; StoreError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise disk.store_error(path, error) from error


def _take_name(temporary: str, path: Path) -> None:
    """Unlike a rename a link never replaces a key."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if exists(path):
            raise FileExistsError(errno.EEXIST, "File exists", str(path)) from None
        Path(temporary).rename(path)


def load_key(home: Home, name: str) -> PrivateKey:
    """The signing key called ``name``.

    Raises TrustError (it says how to make one), StoreError (this user may not read it), UsageError (not a name).
    """
    path = _path(home, name)
    if not exists(path):
        raise TrustError(f"there is no key {path}; make it: {home.command(f'keys new {name}')}")
    return load_file(path)


def list_keys(home: Home) -> list[KeyInfo]:
    """Every key, by name; TrustError when a file is not one, StoreError when this user may not read them."""
    try:
        paths = sorted(home.keys.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unreadable(home.keys, error) from error
    return [KeyInfo(path.stem, load_file(path).public) for path in paths if path.suffix == ".pem"]


def load_file(path: Path) -> PrivateKey:
    """A key's file; TrustError when it is none, StoreError when this user may not read it."""
    try:
        return PrivateKey.load(path)
    except TrustError as error:
        if isinstance(error.__cause__, OSError):
            raise unreadable(path, error.__cause__) from error
        raise


def trust_lines(key: KeyInfo) -> list[str]:
    """The lines for [trust] in a node's config; the repository's keys need none, nodes have its root.json."""
    return [f'command_keys = ["{key.public}"]'] if key.name == COMMANDS else []


def _path(home: Home, name: str) -> Path:
    try:
        return home.keys / f"{check_name(name, 'key')}.pem"
    except ValueError as error:
        raise UsageError(str(error)) from error
