"""Where the configuration file and the node's folders are.

Shared by ``agent.config`` and by commands that answer before pydantic could be imported (``overlaid status``).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.errors import ConfigError

MAX_CONFIG_BYTES = 1 << 20
SYSTEM_CONFIG = Path("/etc/overlaid/agent.toml")


def config_file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The file that holds: the one given, else $OVERLAID_CONFIG, else /etc/overlaid/agent.toml if it exists.

    A variable that is empty counts as unset.
    """
    named = environ.get("OVERLAID_CONFIG")
    if path is None and named:
        path = Path(named)
    return path or (SYSTEM_CONFIG if exists(SYSTEM_CONFIG) else None)


def exists(path: Path) -> bool:
    """True as well for what this user may not look at: reading it will say why it cannot be read."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a zero byte is in no name
        return False
    except OSError:
        return True
    return True


def read_toml(path: Path) -> dict[str, Any]:
    """The file's tables; ConfigError when it cannot be read or is not TOML."""
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"{path}: larger than 1 MiB; this is not a configuration file")
        return parse_toml(path.read_text(encoding="utf-8"), path)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; {_way_out(error)}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def parse_toml(text: str, path: Path) -> dict[str, Any]:
    """Tables; ConfigError, which names ``path``, when it is not TOML."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    except RecursionError:
        raise ConfigError(f"{path}: tables or arrays lie too deep in each other") from None


def _way_out(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return f"this user (uid {os.geteuid()}) must be able to read it, and its folders"
    return "check the path; systemd/agent.toml is a sample of a node's"


def default_state() -> Path:
    """What survives reboots. Root and the service use /var/lib."""
    return Path("/var/lib/overlaid") if os.geteuid() == 0 else Path.home() / ".local/state/overlaid"


def default_runtime() -> Path:
    """Sockets. Root and the service use /run."""
    if os.geteuid() == 0:
        return Path("/run/overlaid")
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/overlaid-{os.geteuid()}") / "overlaid"  # noqa: S108


@dataclass(frozen=True, slots=True)
class Folders:
    """``paths.state`` and ``paths.runtime`` of the configuration, and the files in them that commands use."""

    state: Path
    runtime: Path

    @property
    def control_socket(self) -> Path:
        return self.runtime / "control.sock"

    @property
    def snapshot(self) -> Path:
        return self.state / "snapshot.json"

    @property
    def telemetry(self) -> Path:
        return self.state / "telemetry.db"


def find_folders(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Folders:
    """The folders that ``agent.config.load_config`` would give, without checking the rest of the configuration."""
    environ = os.environ if environ is None else environ
    file = config_file(path, environ)
    table = read_toml(file).get("paths", {}) if file else {}
    if not isinstance(table, dict):
        raise ConfigError(f"{file}: paths must be a table")

    def folder(key: str, default: Path) -> Path:
        value = environ.get(f"OVERLAID_PATHS_{key.upper()}", table.get(key, default))
        if not isinstance(value, (str, Path)):
            raise ConfigError(f"{file}: paths.{key} must be a path")
        return Path(value)

    return Folders(folder("state", default_state()), folder("runtime", default_runtime()))
