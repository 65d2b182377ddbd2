"""overlaid as a systemd service where no package brings one: what is written where, and which commands follow.

Decisions are values (``Plan``); ``carry_out`` does them. Debian's package brings the same files (systemd/deb).
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.errors import ServiceError, UsageError, one_line
from agent.paths import SYSTEM_CONFIG
from agent.setup.files import USER
from agent.setup.installed import installed_text

UNIT = "overlaid.service"
PROGRAM = "/opt/overlaid/bin/overlaid"  # in the unit as it comes
# By their names in systemd/ (systemd/README.md).
FILES = {
    UNIT: Path("/etc/systemd/system/overlaid.service"),
    "overlaid.sysusers": Path("/etc/sysusers.d/overlaid.conf"),
    "overlaid.tmpfiles": Path("/etc/tmpfiles.d/overlaid.conf"),
    "60-overlaid.rules": Path("/etc/udev/rules.d/60-overlaid.rules"),
}
DROP_INS = Path("/etc/systemd/system/overlaid.service.d")
KEPT = (SYSTEM_CONFIG.parent, Path("/var/lib/overlaid"))
DEBIAN = Path("/var/lib/dpkg/info/overlaid.list")
BOOTED = Path("/run/systemd/system")
UDEV = Path("/run/udev/control")
# The unit's ProtectHome= and PrivateTmp= hide them.
HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108
TIMEOUT_S = 120.0

Command = tuple[str, ...]
MISSING = "not there"
PROPERTIES = ("ActiveState", "UnitFileState", "StatusText")


@dataclass(frozen=True, slots=True)
class Plan:
    """``write``: texts by path, ``remove``: files and folders; then ``commands`` in order. ``before``: commands that
    come first."""

    write: dict[Path, str] = field(default_factory=dict)
    remove: tuple[Path, ...] = ()
    commands: tuple[Command, ...] = ()
    before: tuple[Command, ...] = ()


@dataclass(frozen=True, slots=True)
class State:
    """What ``overlaid service status`` shows; ``active``, ``enabled`` and ``text`` are systemd's words."""

    installed_by: str
    files: dict[str, str]
    active: str
    enabled: str
    text: str


def program() -> Path:
    """The ``overlaid`` of this installation."""
    return Path(sys.prefix) / "bin" / "overlaid"


def check(root: Path = Path("/"), prefixes: Sequence[str] = (sys.prefix, sys.base_prefix)) -> None:
    """ServiceError when the service cannot be installed here, with the way on."""
    if under(root, DEBIAN).exists():
        raise ServiceError(
            "the Debian package overlaid is installed here and brings the service: systemctl status overlaid"
        )
    if not under(root, BOOTED).is_dir():
        raise ServiceError(
            "systemd does not run this machine; have its supervisor start: "
            f"{program()} run --config {SYSTEM_CONFIG}"
        )
    unit = under(root, FILES[UNIT])
    if unit.is_symlink() and unit.resolve() == Path(os.devnull):
        raise ServiceError(f"{UNIT} is masked here; if it shall run: sudo systemctl unmask overlaid")
    for prefix in prefixes:
        hidden = next((folder for folder in HIDDEN if Path(prefix).is_relative_to(folder)), None)
        if hidden:
            raise ServiceError(
                f"overlaid is installed in {prefix}, and the service sees nothing of {hidden}; install it for all: "
                "sudo PIPX_HOME=/opt/pipx PIPX_BIN_DIR=/usr/local/bin pipx install --python /usr/bin/python3 overlaid"
            )


def installation(root: Path = Path("/")) -> Plan:
    """The files with this installation's program, the sample configuration where there is none, and a (re)start."""
    texts = {path: _text(name) for name, path in FILES.items()}
    if not under(root, SYSTEM_CONFIG).exists():
        texts[SYSTEM_CONFIG] = installed_text("agent.toml")
    return Plan(
        write=texts,
        commands=(
            ("systemd-sysusers", str(FILES["overlaid.sysusers"])),
            ("systemd-tmpfiles", "--create", str(FILES["overlaid.tmpfiles"])),
            *_udev(root, ("udevadm", "trigger", "--subsystem-match=powercap")),
            ("systemctl", "daemon-reload"),
            ("systemctl", "enable", UNIT),
            ("systemctl", "restart", UNIT),  # an upgrade's too
        ),
    )


def check_removable(root: Path = Path("/")) -> None:
    """ServiceError when it is not this command's to remove."""
    if under(root, DEBIAN).exists():
        raise ServiceError(
            "the Debian package overlaid brought the service: sudo apt-get remove overlaid, or purge"
        )


def removal(purge: bool, root: Path = Path("/"), accounts: Sequence[Command] = ()) -> Plan:
    """Stop the service and remove its files; with ``purge`` also configuration, state and what ``accounts`` removes."""
    installed = under(root, FILES[UNIT]).exists()
    return Plan(
        before=(("systemctl", "disable", "--now", UNIT),) if installed else (),
        remove=(*FILES.values(), *((DROP_INS, *KEPT) if purge else ())),
        commands=(("systemctl", "daemon-reload"), *_udev(root), *(accounts if purge else ())),
    )


def account_removal() -> list[Command]:
    """Of the user and the group; userdel leaves a group that has members."""
    commands: list[Command] = []
    with contextlib.suppress(KeyError):
        pwd.getpwnam(USER)
        commands.append(("userdel", USER))
    with contextlib.suppress(KeyError):
        if grp.getgrnam(USER).gr_mem or not commands:
            commands.append(("groupdel", USER))
    return commands


def _udev(root: Path, *more: Command) -> tuple[Command, ...]:
    return (("udevadm", "control", "--reload"), *more) if under(root, UDEV).exists() else ()


def answer(command: Command) -> str:
    """Its output; ServiceError with what it said when it fails or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServiceError(f"{' '.join(command)}: {one_line(error)}") from error
    if done.returncode:
        raise ServiceError(f"{' '.join(command)} failed: {' '.join(done.stderr.split()) or done.returncode}")
    return done.stdout


def carry_out(plan: Plan, run: Callable[[Command], object] = answer, root: Path = Path("/")) -> None:
    """ServiceError names what failed; doing it again goes on from there."""
    for command in plan.before:
        run(command)
    try:
        for path, text in plan.write.items():
            target = under(root, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_symlink():  # or what it leads to would be written: /dev/null, say
                target.unlink()
            target.write_text(text, encoding="utf-8")
            target.chmod(0o640 if path == SYSTEM_CONFIG else 0o644)
        for path in plan.remove:
            target = under(root, path)
            shutil.rmtree(target) if target.is_dir() and not target.is_symlink() else target.unlink(
                missing_ok=True
            )
    except OSError as error:
        raise ServiceError(f"{error.filename}: {error.strerror}; mend that, and run this again") from error
    for command in plan.commands:
        run(command)


def lines(plan: Plan) -> list[str]:
    """What ``carry_out`` would do, a line each."""
    return [
        *(" ".join(command) for command in plan.before),
        *(f"write {path}" for path in plan.write),
        *(f"remove {path}" for path in plan.remove),
        *(" ".join(command) for command in plan.commands),
    ]


def state(root: Path = Path("/"), ask: Callable[[Command], str] = answer) -> State:
    """What is installed and what systemd says of it."""
    debian = under(root, DEBIAN).exists()
    files = (
        {} if debian else {str(path): _file_state(under(root, path), name) for name, path in FILES.items()}
    )
    by_hand = any(text != MISSING for text in files.values())
    said = ""
    if under(root, BOOTED).is_dir():
        said = ask(("systemctl", "show", UNIT, f"--property={','.join(PROPERTIES)}"))
    shown = dict(line.partition("=")[::2] for line in said.splitlines())
    return State(
        installed_by="the Debian package" if debian else "overlaid service install" if by_hand else "nobody",
        files=files,
        active=shown.get("ActiveState", "systemd does not run"),
        enabled=shown.get("UnitFileState") or "not enabled",
        text=shown.get("StatusText", ""),
    )


def _file_state(path: Path, name: str) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return MISSING
    except (OSError, ValueError):
        return "cannot be read"
    return "as it came" if text == _text(name) else "differs from this version's"


def _text(name: str) -> str:
    return installed_text(name).replace(PROGRAM, str(program())) if name == UNIT else installed_text(name)


def need_root(arguments: str, uid: int) -> None:
    """UsageError with the command to give instead."""
    if uid != 0:
        raise UsageError(f"this needs root: sudo {program()} {arguments}")


def under(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")
