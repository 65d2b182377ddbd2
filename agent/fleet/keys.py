"""The operator's signing keys: ``keys/<name>.pem`` (PKCS#8, readable by the owner alone).

By convention ``packages`` signs packages and ``commands`` signs desired states and commands.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from agent.errors import TrustError, UsageError
from agent.fleet.home import Home, unreadable
from agent.package import disk
from agent.paths import exists
from agent.trust import Keyring, PrivateKey, PublicKey, keyring
from agent.types import check_name

PACKAGES = "packages"
COMMANDS = "commands"


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """A key without its secret."""

    name: str
    public: PublicKey


def new_key(home: Home, name: str) -> KeyInfo:
    """Make a signing key; UsageError when the name is taken or not a name, StoreError."""
    path = _path(home, name)
    home.make()
    disk.make_folder(home.keys)
    key = PrivateKey.generate()
    try:
        descriptor, temporary = tempfile.mkstemp(disk.LEFTOVER, dir=home.keys)  # mode 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(key.pem())
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)  # unlike a rename it never replaces a key
        finally:
            Path(temporary).unlink()
        disk.sync(home.keys)
    except FileExistsError:
        raise UsageError(
            f"{path} exists; nodes trust it, so it is never replaced: choose another name"
        ) from None
    except OSError as error:
        raise disk.store_error(path, error) from error
    return KeyInfo(name, key.public)


def load_key(home: Home, name: str) -> PrivateKey:
    """The signing key called ``name``.

    Raises TrustError (it says how to make one), StoreError (this user may not read it), UsageError (not a name).
    """
    path = _path(home, name)
    if not exists(path):
        raise TrustError(f"there is no key {path}; make it: {home.command(f'keys new {name}')}")
    return _load(path)


def list_keys(home: Home) -> list[KeyInfo]:
    """Every key, by name; TrustError when a file is not one, StoreError when this user may not read them."""
    try:
        paths = sorted(home.keys.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unreadable(home.keys, error) from error
    return [KeyInfo(path.stem, _load(path).public) for path in paths if path.suffix == ".pem"]


def _load(path: Path) -> PrivateKey:
    try:
        return PrivateKey.load(path)
    except TrustError as error:
        if isinstance(error.__cause__, OSError):
            raise unreadable(path, error.__cause__) from error
        raise


def public_keys(home: Home) -> Keyring:
    """The keys whose packages this operator accepts: the home's own."""
    return keyring(key.public for key in list_keys(home))


def trust_lines(key: KeyInfo) -> list[str]:
    """The lines for [trust] in a node's config; a name without a convention could serve for either."""
    line = f'{{}} = ["{key.public}"]'
    fields = {PACKAGES: ["package_keys"], COMMANDS: ["command_keys"]}.get(
        key.name, ["package_keys", "command_keys"]
    )
    return [line.format(field) for field in fields]


def _path(home: Home, name: str) -> Path:
    try:
        return home.keys / f"{check_name(name, 'key')}.pem"
    except ValueError as error:
        raise UsageError(str(error)) from error
