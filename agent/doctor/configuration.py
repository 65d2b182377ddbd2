"""The configuration file: whether it can be read, whether it is valid, and in which line it is not."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from agent.config import Config, load_config
from agent.doctor.finding import Finding, ok, problem, unknown, warning
from agent.errors import ConfigError
from agent.paths import MAX_CONFIG_BYTES, SYSTEM_CONFIG, config_file

AREA = "configuration"
Fault = Literal["", "missing", "denied", "invalid"]
_PASSWORD = re.compile(r"^\s*(?:mqtt\.)?password\s*=\s*\S", flags=re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of reading ``file`` (None: there is none). ``line``: where it is wrong; ``variable``: of the
    environment, when that is what is wrong."""

    file: Path | None
    text: str = ""
    config: Config | None = None
    fault: Fault = ""
    error: str = ""
    line: int | None = None
    variable: str = ""

    @property
    def holds_password(self) -> bool:
        return _PASSWORD.search(self.text) is not None


def read(path: Path | None, environ: Mapping[str, str] | None = None) -> Reading:
    """Read what the daemon would read."""
    environ = os.environ if environ is None else environ
    file = config_file(path, environ)
    text = _text(file)
    try:
        return Reading(file, text, load_config(file, environ))
    except ConfigError as error:
        cause = error.__cause__
        fault: Fault = "invalid"
        if isinstance(cause, OSError):
            fault = "denied" if isinstance(cause, PermissionError) else "missing"
        location = cause.errors()[0]["loc"] if isinstance(cause, ValidationError) else ()
        variable = f"OVERLAID_{'_'.join(map(str, location[:2]))}".upper() if location else ""
        return Reading(
            file, text, None, fault, str(error), _line(text, str(error), location),
            variable if variable in environ else "",
        )  # fmt: skip


def _text(file: Path | None) -> str:
    """ "" when it cannot be read."""
    try:
        if file is None or not file.is_file():
            return ""
        with file.open(encoding="utf-8", errors="replace") as stream:
            return stream.read(MAX_CONFIG_BYTES)
    except OSError:
        return ""


def _line(text: str, error: str, location: Sequence[str | int]) -> int | None:
    if location:
        return line_of(text, *map(str, location[:2]))
    if found := re.search(r"\(at line (\d+), column \d+\)", error):
        return int(found[1])
    return len(text.splitlines()) or None if "(at end of document)" in error else None


def line_of(text: str, section: str, key: str = "") -> int | None:
    """The number of the line with ``key`` of ``[section]``, else of the section's head; None without either."""
    head: int | None = None
    here = False
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r"\s*\[", line):
            here = re.match(rf"\s*\[\s*{re.escape(section)}\s*\]", line) is not None
            head = head or (number if here else None)
        elif key and re.match(rf"\s*{'' if here else re.escape(section) + '[.]'}{re.escape(key)}\s*=", line):
            return number
    return head


def judge(reading: Reading, restart: str, program: str) -> list[Finding]:
    """``restart``: the command that makes the daemon read it; ``program``: this command's."""
    file = reading.file
    match reading.fault:
        case "denied":
            why = f"{reading.error}; without it broker, trust, HTTP port and most permissions are not checked"
            return [unknown(AREA, f"{file} cannot be read", why, f"sudo {program} doctor --config {file}")]
        case "missing":
            mend = f"sudo {program} init --config {file}"
            return [
                problem(AREA, f"{file} is not there", f"{reading.error}; the daemon does not start", mend)
            ]
        case "invalid":
            return [_invalid(reading, restart)]
    if file is None:
        why = "defaults hold: no broker, nobody is trusted; models come by overlaid deploy alone"
        return [warning(AREA, f"there is no {SYSTEM_CONFIG}", why, f"sudo {program} init")]
    return [ok(AREA, f"{file} is valid")]


def _invalid(reading: Reading, restart: str) -> Finding:
    where = f", line {reading.line}" if reading.line and not reading.variable else ""
    if reading.variable:
        mend = f"unset {reading.variable} (in a service: sudo systemctl edit overlaid) && {restart}"
    else:
        mend = f"{editor(reading.file, reading.line)} && {restart}"
    return problem(
        AREA,
        f"{reading.file or 'the environment'} is not valid{where}",
        f"ConfigError: {reading.error}; the daemon does not start with it",
        mend,
    )


def editor(file: Path | None, line: int | None) -> str:
    """The command that edits the file, at a line."""
    at = f"+{line} " if line else ""
    return f'sudo "${{EDITOR:-vi}}" {at}{file or SYSTEM_CONFIG}'
