"""Whose node is looked at: its configuration, its folders, the daemon's user and who looks."""

from __future__ import annotations

import grp
import os
import pwd
import shlex
from dataclasses import dataclass
from pathlib import Path

from agent.config import Config
from agent.doctor.configuration import Reading, editor, line_of
from agent.doctor.unit import Unit
from agent.errors import ConfigError
from agent.paths import Folders, default_runtime, default_state, find_folders
from agent.setup.files import USER
from agent.setup.service import program

SERVICE_FOLDERS = Folders(Path("/var/lib/overlaid"), Path("/run/overlaid"))


@dataclass(frozen=True, slots=True)
class User:
    """``groups``: of the process, ``gid`` among them."""

    name: str
    uid: int
    gid: int
    groups: frozenset[int] = frozenset()

    def may(self, mode: int, uid: int, gid: int, wanted: int) -> bool:
        """Whether a file's mode and owner give this user ``wanted`` (4 read, 2 write, 1 enter)."""
        if self.uid == 0:
            return True
        shift = 6 if uid == self.uid else 3 if gid == self.gid or gid in self.groups else 0
        return (mode >> shift) & wanted == wanted


@dataclass(frozen=True, slots=True)
class Subject:
    """``user``: the daemon's; None where the account is not there. ``by_service``: systemd starts it with this
    configuration."""

    reading: Reading
    folders: Folders
    by_service: bool
    user: User | None
    viewer: User

    @property
    def config(self) -> Config | None:
        return self.reading.config

    @property
    def owner(self) -> str:
        """``user:group`` for chown."""
        if self.user is None:
            return "overlaid:overlaid"
        return f"{self.user.name}:{group_name(self.user.gid)}"

    @property
    def restart(self) -> str:
        if self.by_service:
            return "sudo systemctl restart overlaid"
        file = self.reading.file
        return f"overlaid run --config {shlex.quote(str(file))}" if file else "overlaid run"

    @property
    def again(self) -> str:
        """The doctor with all rights."""
        config = f" --config {shlex.quote(str(self.reading.file))}" if self.reading.file else ""
        return f"sudo {program()} doctor{config}"

    def sudo(self, command: str) -> str:
        """A command on files of the daemon: by whom they are not, with sudo."""
        own = self.user is not None and self.user.uid == self.viewer.uid and not self.by_service
        return command if own else f"sudo {command}"

    def edit(self, section: str, key: str, text: str) -> str:
        """The command that opens the configuration where the key is; ``text``: what shall be there."""
        line = line_of(self.reading.text, section, key)
        return f"{editor(self.reading.file, line)} && {self.restart}  # [{section}] {text}"


def find(reading: Reading, unit: Unit | None) -> Subject:
    """``unit``: the service, where systemd has one."""
    viewer = this_user()
    installed = unit is not None and unit.load in ("loaded", "masked")
    by_service = installed and unit is not None and reading.file in (None, unit.config)
    if by_service and unit is not None and reading.file is None:
        reading = Reading(unit.config, fault="missing", error=f"the service reads {unit.config}")
    try:
        if reading.fault == "missing":
            raise ConfigError("")
        folders = find_folders(reading.file)
    except ConfigError:
        folders = SERVICE_FOLDERS if by_service else Folders(default_state(), default_runtime())
    user: User | None = viewer
    if by_service and unit is not None:
        user = named_user(
            unit.user if unit.load == "loaded" else USER
        )  # of a masked one systemd knows nothing
    elif viewer.uid == 0:
        user = _owner(folders.state) or viewer
    return Subject(reading, folders, by_service, user, viewer)


def this_user() -> User:
    return User(_name(os.geteuid()), os.geteuid(), os.getegid(), frozenset(os.getgroups()))


def named_user(name: str) -> User | None:
    """None when there is no such account."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return User(name, entry.pw_uid, entry.pw_gid, frozenset(os.getgrouplist(name, entry.pw_gid)))


def group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _owner(folder: Path) -> User | None:
    try:
        found = folder.stat()
    except OSError:
        return None
    return named_user(_name(found.st_uid)) or User(
        _name(found.st_uid), found.st_uid, found.st_gid, frozenset({found.st_gid})
    )


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
