"""Files of a node's configuration: secrets are the daemon's alone, from their first byte on."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from agent.package import disk

USER = "overlaid"


@dataclass(frozen=True, slots=True)
class Owner:
    """Who owns what the daemon reads: the service's user when root installs for it, else this user."""

    uid: int
    gid: int

    @classmethod
    def find(cls) -> Owner:
        if os.geteuid() == 0:
            try:
                entry = pwd.getpwnam(USER)
            except KeyError:
                pass
            else:
                return cls(entry.pw_uid, entry.pw_gid)
        return cls(os.geteuid(), os.getegid())


def make_folder(path: Path, owner: Owner) -> None:
    """A folder that only its owner's group may enter, root's own as systemd/overlaid.tmpfiles says; StoreError."""
    if path.is_dir():
        return
    disk.make_folder(path)
    _own(path, os.geteuid(), owner.gid, 0o750)


def write_secret(path: Path, data: bytes, owner: Owner) -> None:
    """Mode 0400; the file is never there with another mode. StoreError."""
    _write(path, data, owner.uid, owner.gid, 0o400)


def write_config(path: Path, text: str, owner: Owner) -> None:
    """Mode 0640: the group may read how the node is configured. StoreError."""
    _write(path, text.encode(), os.geteuid(), owner.gid, 0o640)


def write_public(path: Path, data: bytes, owner: Owner) -> None:
    """A certificate or root.json: mode 0644. StoreError."""
    _write(path, data, os.geteuid(), owner.gid, 0o644)


def _write(path: Path, data: bytes, uid: int, gid: int, mode: int) -> None:
    with disk.replacing(path) as file:  # made with 0600
        os.fchown(file.fileno(), uid, gid)
        os.fchmod(file.fileno(), mode)
        file.write(data)


def _own(path: Path, uid: int, gid: int, mode: int) -> None:
    try:
        os.chown(path, uid, gid)
        path.chmod(mode)
    except OSError as error:
        raise disk.store_error(path, error) from error
