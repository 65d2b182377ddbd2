"""The sample configuration with some of its keys set: its comments stay, so that the file explains itself."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.setup.installed import installed_text

SAMPLE = "agent.toml"
Value = str | int | Path | Sequence[str]
_HEADER = re.compile(r"#?\[([a-z]+)\]\s*")
_KEY = re.compile(r"#?([a-z_0-9]+) = .*")


def filled(sample: str, values: Mapping[str, Mapping[str, Value]]) -> str:
    """``values``: by section and key. A section or key that is commented out in ``sample`` is brought to life; a key
    that it does not have follows its section's header, and a section that it does not have its last line."""
    lines: list[str] = []
    section, left = "", {name: dict(table) for name, table in values.items() if table}
    for line in sample.splitlines():
        header, key = _HEADER.fullmatch(line), _KEY.fullmatch(line)
        if header is not None:
            section = header.group(1)
            lines.append(f"[{section}]" if section in left else line)
        elif key is not None and key.group(1) in left.get(section, {}):
            lines.append(_line(key.group(1), left[section].pop(key.group(1))))
        else:
            lines.append(line)
    for name, table in left.items():
        header_line = f"[{name}]"
        if header_line not in lines:
            lines += ["", header_line]
        at = lines.index(header_line) + 1
        lines[at:at] = assigned(table)
    return "\n".join(lines) + "\n"


def assigned(table: Mapping[str, Value]) -> list[str]:
    """A table's lines."""
    return [_line(key, value) for key, value in table.items()]


def _line(key: str, value: Value) -> str:
    """JSON's strings, numbers and arrays of strings are TOML's."""
    plain = str(value) if isinstance(value, Path) else value
    return f"{key} = {json.dumps(plain, ensure_ascii=False)}"


def sample_text() -> str:
    """The sample that comes with this installation: every key with its default and unit."""
    return installed_text(SAMPLE)


def is_sample(path: Path) -> bool:
    """True for the sample as it came, which the Debian package and ``overlaid service install`` leave for a start."""
    try:
        return path.read_text(encoding="utf-8") == sample_text()
    except (OSError, ValueError):
        return False
