"""Manual pages in man(7)'s macros: ``overlaid(1)`` and one for each group of commands, ``overlaid-fleet(1)`` …"""

from __future__ import annotations

import time
from collections.abc import Iterator

from systemd.deb.tree import Argument, Command

FILES = (
    ("/etc/overlaid/agent.toml", "configuration of the node; every key is explained there"),
    ("/etc/overlaid/mqtt.password, /etc/overlaid/pki/", "its secrets, readable by the daemon alone"),
    ("/var/lib/overlaid/", "models, deployments and telemetry"),
    ("/run/overlaid/", "sockets; members of the group overlaid may use them"),
)
ENVIRONMENT = (
    ("OVERLAID_CONFIG", "another configuration file"),
    ("OVERLAID_SECTION_KEY", "one key of the configuration, e.g. OVERLAID_NODE_NAME=cam-7"),
)
EXIT_STATUS = (
    ("0", "done"),
    ("1", "it failed; the reason is on standard error"),
    ("2", "wrong usage"),
    ("3", "the daemon is down"),
    ("130", "interrupted"),
)


def pages(top: Command, version: str, epoch: int) -> dict[str, str]:
    """Text by file name. A group is a command with commands of its own; a group within one is on its page."""
    made = {"overlaid.1": page(top, version, epoch)}
    for command in top.commands:
        if command.commands:
            made[f"{name(command)}.1"] = page(command, version, epoch)
    return made


def name(command: Command) -> str:
    return "-".join(command.words)


def page(command: Command, version: str, epoch: int) -> str:
    day = time.strftime("%Y-%m-%d", time.gmtime(epoch))
    lines = [
        f'.TH {name(command).upper()} 1 {day} "overlaid {version}"',
        ".SH NAME",
        f"{plain(name(command))} \\- {plain(command.text or 'deploys and serves ML models on edge boxes')}",
        ".SH SYNOPSIS",
        *_usage(command),
        ".SH DESCRIPTION",
        plain(command.description),
        *_options(command),
        ".SH COMMANDS",
    ]
    for inner in command.commands:
        lines += _section(inner, whole=len(command.words) > 1)
    if len(command.words) == 1:
        lines += [*_table("FILES", FILES), *_table("ENVIRONMENT", ENVIRONMENT)]
    lines += _table("EXIT STATUS", EXIT_STATUS)
    lines += _see_also(command)
    return "\n".join(lines) + "\n"


def _section(command: Command, whole: bool) -> Iterator[str]:
    """A command; of a group its name alone unless ``whole``, since it has a page of its own."""
    if command.commands and not whole:
        yield from (".TP", f".BR {plain(name(command))} (1)", plain(command.text))
        return
    if command.commands:
        for inner in command.commands:
            yield from _section(inner, whole)
        return
    yield f'.SS "{plain(" ".join(command.words))}"'
    yield from _usage(command)
    yield ".PP"
    yield plain(command.description)
    for argument in command.arguments:
        if "--help" not in argument.flags:
            yield from _entry(argument)
    if command.epilog:
        yield ".PP"
        yield plain(command.epilog)


def _usage(command: Command) -> Iterator[str]:
    yield ".PP"
    yield f".B {plain(' '.join(command.words))}"
    rest = command.usage.removeprefix(" ".join(command.words)).strip()
    if rest:
        yield plain(rest)


def _options(command: Command) -> Iterator[str]:
    for argument in command.options:
        yield from _entry(argument)


def _entry(argument: Argument) -> Iterator[str]:
    yield ".TP"
    if argument.flags:
        flags = ", ".join(f"\\fB{plain(flag)}\\fR" for flag in argument.flags)
        yield f"{flags} \\fI{plain(argument.shown)}\\fR" if argument.shown else flags
    else:
        yield f"\\fI{plain(argument.shown)}\\fR"
    yield plain(argument.text) or "\\&"


def _table(title: str, rows: tuple[tuple[str, str], ...]) -> Iterator[str]:
    yield f'.SH "{title}"'
    for term, text in rows:
        yield from (".TP", f"\\fB{plain(term)}\\fR", plain(text))


def _see_also(command: Command) -> Iterator[str]:
    others = [f"overlaid-{inner.words[-1]}" for inner in command.commands if inner.commands]
    if len(command.words) > 1:
        others = ["overlaid"]
    yield '.SH "SEE ALSO"'
    yield ",\n".join(f"\\fB{plain(other)}\\fR(1)" for other in [*others, "systemctl", "journalctl"])


def plain(text: str) -> str:
    """Text that troff sets as it is: no escapes, no requests at the beginning of a line, hyphens that can be copied."""
    one_line = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-")
    one_line = one_line.replace("^", "\\(ha").replace("~", "\\(ti").replace('"', "\\(dq")
    return f"\\&{one_line}" if one_line[:1] in (".", "'") else one_line
