"""Who may read and change the node's files: configuration, secrets, certificates, state folder, control socket."""

from __future__ import annotations

import itertools
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agent.doctor.finding import Finding, ok, problem, unknown, warning
from agent.doctor.subject import Subject, User, group_name, named_user
from agent.setup.service import HIDDEN

AREA = "permissions"
MAX_ENTRIES = 1000  # of the state folder that are looked at
Role = Literal["config", "secret", "public"]
MQTT_FILES: dict[str, Role] = {"password_file": "secret", "key": "secret", "ca": "public", "cert": "public"}


@dataclass(frozen=True, slots=True)
class Node:
    """One file or folder; ``mode``: permission bits."""

    path: Path
    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class File:
    """A file that the configuration names under ``key``. ``found`` is None where ``error`` says why not. ``folders``:
    those that it is in, the root first, as far as they could be looked at."""

    role: Role
    key: str
    path: Path
    found: Node | None
    error: Literal["", "missing", "denied"] = ""
    folders: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """``strangers``: in the state folder, not the daemon's. ``member``: whether the account of who looks is in the
    socket's group, as the system's files have it."""

    files: tuple[File, ...]
    state: Node | None = None
    strangers: tuple[Path, ...] = ()
    socket: Node | None = None
    member: bool = False


def look(subject: Subject) -> Facts:
    """Nothing of the files is read."""
    files = [file_at("config", "--config", subject.reading.file)] if subject.reading.file else []
    files += [file_at(role, key, path) for role, key, path in _named(subject)]
    socket = _node(subject.folders.control_socket)
    entry = named_user(subject.viewer.name)
    return Facts(
        tuple(files),
        _node(subject.folders.state),
        tuple(_strangers(subject)),
        socket,
        entry is not None and socket is not None and socket.gid in entry.groups,
    )


def _named(subject: Subject) -> Iterator[tuple[Role, str, Path]]:
    config = subject.config
    if config is None:
        return
    if config.mqtt is not None:
        for key, role in MQTT_FILES.items():
            path = getattr(config.mqtt, key)
            if path is not None:
                yield role, f"mqtt.{key}", path
    root = config.trust.root
    if root is not None:
        yield "public", "trust.root", root


def file_at(role: Role, key: str, path: Path) -> File:
    path = path.absolute()
    folders = tuple(node for node in map(_node, reversed(path.parents)) if node is not None)
    try:
        found = path.stat()
    except PermissionError:
        return File(role, key, path, None, "denied", folders)
    except (OSError, ValueError):
        return File(role, key, path, None, "missing", folders)
    node = Node(path, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)
    return File(role, key, path, node, "", folders)


def _node(path: Path) -> Node | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return Node(path, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)


def _strangers(subject: Subject) -> Iterator[Path]:
    """What is directly in the state folder and belongs to somebody else: root ran the daemon by hand, say."""
    if subject.user is None:
        return
    try:
        for path in itertools.islice(subject.folders.state.iterdir(), MAX_ENTRIES):
            if path.lstat().st_uid != subject.user.uid:
                yield path
    except OSError:
        return


def judge(facts: Facts, subject: Subject) -> list[Finding]:
    found = [finding for file in facts.files for finding in _of_file(file, subject)]
    found += [*_of_state(facts, subject), *_of_socket(facts, subject)]
    return found or [ok(AREA, "files, state folder and control socket are as they should be")]


def _of_file(file: File, subject: Subject) -> Iterator[Finding]:
    if file.error == "denied":
        if file.role != "config":  # of which "configuration" tells
            yield unknown(
                AREA,
                f"{file.key} {file.path} cannot be looked at",
                f"user {subject.viewer.name} may not enter its folder",
                subject.again,
            )
        return
    if file.found is None:
        if file.key.startswith("mqtt."):  # of the others "configuration" and "trust" tell
            yield problem(
                AREA, f"{file.key} {file.path} is not there", "the daemon cannot connect without it",
                _name_it(file, "its path", subject),
            )  # fmt: skip
        return
    yield from _open_to_others(file, file.found, subject)
    yield from _closed_to_daemon(file, file.found, subject)


def _open_to_others(file: File, found: Node, subject: Subject) -> Iterator[Finding]:
    name, octal = f"{file.key} {file.path}", f"mode {found.mode:04o}"
    quoted = shlex.quote(str(file.path))
    if file.role == "config" and subject.reading.holds_password and found.mode & 0o004:
        yield problem(
            AREA, f"everybody on this machine may read the broker's password in {file.path} ({octal})",
            "change the password as well: it may be known", subject.sudo(f"chmod 0640 {quoted}"),
        )  # fmt: skip
    if file.role == "secret" and found.mode & 0o007:
        yield problem(
            AREA, f"everybody on this machine may read {name} ({octal})" if found.mode & 4 else
            f"everybody on this machine may change {name} ({octal})",
            "replace the secret as well: it may be known", subject.sudo(f"chmod 0400 {quoted}"),
        )  # fmt: skip
    elif file.role == "secret" and found.mode & 0o070:
        yield warning(
            AREA, f"the group {group_name(found.gid)} may read {name} ({octal})",
            "members of the daemon's group may use models, and need not know its secrets",
            subject.sudo(f"chmod 0400 {quoted}") if subject.user and found.uid == subject.user.uid
            else f"sudo chown {subject.owner} {quoted} && sudo chmod 0400 {quoted}",
        )  # fmt: skip
    elif found.mode & 0o022 and not (
        file.role == "public" and not found.mode & 0o002
    ):  # a group that keeps certificates is usual
        yield problem(
            AREA, f"others than its owner may change {name} ({octal})",
            "who can change it decides whom this node obeys", subject.sudo(f"chmod go-w {quoted}"),
        )  # fmt: skip
    for folder in file.folders:
        if folder.mode & 0o002 and not folder.mode & stat.S_ISVTX:
            yield problem(
                AREA, f"everybody may replace {name}: {folder.path} is writable by all",
                "who can change it decides whom this node obeys",
                subject.sudo(f"chmod o-w {shlex.quote(str(folder.path))}"),
            )  # fmt: skip


def _closed_to_daemon(file: File, found: Node, subject: Subject) -> Iterator[Finding]:
    user, name = subject.user, f"{file.key} {file.path}"
    if user is None:
        return
    hidden = next((folder for folder in HIDDEN if file.path.is_relative_to(folder)), None)
    if subject.by_service and hidden:
        yield problem(
            AREA, f"the service does not see {name}", f"its sandbox has no {hidden}",
            f"sudo mv {shlex.quote(str(file.path))} /etc/overlaid/ && "
            + _name_it(file, f'"/etc/overlaid/{file.path.name}"', subject),
        )  # fmt: skip
        return
    for folder in file.folders:
        if not user.may(folder.mode, folder.uid, folder.gid, 1):
            quoted = shlex.quote(str(folder.path))
            yield problem(
                AREA, f"the daemon (user {user.name}) may not enter {folder.path}", f"{name} is in it",
                f"sudo chgrp {group_name(user.gid)} {quoted} && sudo chmod g+rx {quoted} && {subject.restart}",
            )  # fmt: skip
            return
    if not user.may(found.mode, found.uid, found.gid, 4):
        quoted = shlex.quote(str(file.path))
        own = f"chown {subject.owner}" if file.role == "secret" else f"chgrp {group_name(user.gid)}"
        bits = {"secret": "0400", "config": "0640", "public": "0644"}[file.role]
        yield problem(
            AREA, f"the daemon (user {user.name}) may not read {name}", f"mode {found.mode:04o}, uid {found.uid}",
            f"sudo {own} {quoted} && sudo chmod {bits} {quoted} && {subject.restart}",
        )  # fmt: skip


def _name_it(file: File, value: str, subject: Subject) -> str:
    """The command that has the configuration name the file's new place."""
    section, _, key = file.key.partition(".")
    return subject.edit(section, key, f"{key} = {value}") if key else subject.restart


def _of_state(facts: Facts, subject: Subject) -> Iterator[Finding]:
    state, user = facts.state, subject.user
    if state is None or user is None:
        return  # the daemon makes it
    quoted = shlex.quote(str(state.path))
    mend = f"sudo chown -R {subject.owner} {quoted} && {subject.restart}"
    more = f", and {len(facts.strangers) - 1} more" if len(facts.strangers) > 1 else ""
    if not _writes(user, state):
        yield problem(
            AREA, f"the daemon (user {user.name}) may not write in {state.path}",
            f"it belongs to uid {state.uid}, mode {state.mode:04o}; models, journal and telemetry are kept there", mend,
        )  # fmt: skip
    elif facts.strangers:
        yield problem(
            AREA, f"{facts.strangers[0].name} in {state.path} is not the daemon's"+ more,
            f"its user is {user.name}; a daemon that another user started by hand leaves such files", mend,
        )  # fmt: skip
    if state.mode & 0o002:
        yield problem(
            AREA, f"everybody may write in {state.path}", f"mode {state.mode:04o}",
            subject.sudo(f"chmod 0750 {quoted}"),
        )  # fmt: skip


def _writes(user: User, node: Node) -> bool:
    return user.may(node.mode, node.uid, node.gid, 3)


def _of_socket(facts: Facts, subject: Subject) -> Iterator[Finding]:
    socket, user, viewer = facts.socket, subject.user, subject.viewer
    if socket is None:
        return
    if subject.by_service and user is not None and socket.gid != user.gid:
        yield problem(
            AREA, f"{socket.path} belongs to the group {group_name(socket.gid)}, not to {group_name(user.gid)}",
            "who is in that group cannot use the command; a daemon that was started by hand leaves such a socket",
            subject.restart,
        )  # fmt: skip
    elif not viewer.may(socket.mode, socket.uid, socket.gid, 2):
        group = group_name(socket.gid)
        mend = f"newgrp {group}" if facts.member else f"sudo usermod --append --groups {group} {viewer.name}"
        why = (
            "you are in it, and were not when you logged in"
            if facts.member
            else f"log in again after that; until then: {subject.again}"
        )
        yield warning(
            AREA, f"you ({viewer.name}) may not ask the daemon: {socket.path} is for the group {group}",
            why, mend,
        )  # fmt: skip
