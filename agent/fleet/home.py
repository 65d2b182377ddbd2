"""The operator's folder: settings, signing keys, packages, the repository's metadata and the operator's database."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agent.config import Mqtt, Name, Section
from agent.errors import ConfigError, StoreError, UsageError
from agent.package import disk
from agent.paths import exists, read_toml
from agent.validation import explain_validation, from_table

EXAMPLE = "init --site lab --broker localhost:1883"
MQTT_PORT, MQTTS_PORT = 1883, 8883


class Fleet(Section):
    """Which site this folder operates."""

    site: Name


class FleetSettings(Section):
    """fleet.toml."""

    fleet: Fleet
    mqtt: Mqtt


def default_path(environ: Mapping[str, str] | None = None) -> Path:
    """$OVERLAID_FLEET, else ~/.config/overlaid-fleet."""
    named = (os.environ if environ is None else environ).get("OVERLAID_FLEET")
    return Path(named) if named else Path.home() / ".config" / "overlaid-fleet"


class Home:
    """Paths below one folder. Nothing is read or made before it is asked for."""

    def __init__(self, path: Path | None = None) -> None:
        self._named = path
        self.path = (path or default_path()).expanduser().absolute()

    def command(self, text: str) -> str:
        """``overlaid fleet TEXT`` as it is typed for this folder: with --home when that named it."""
        option = "" if self._named is None else f" --home {shlex.quote(str(self._named))}"
        return f"overlaid fleet {text}{option}"

    @property
    def settings_file(self) -> Path:
        return self.path / "fleet.toml"

    @property
    def keys(self) -> Path:
        return self.path / "keys"

    @property
    def offline(self) -> Path:
        """Keys of the repository that are moved to a safe place."""
        return self.path / "offline"

    @property
    def repo(self) -> Path:
        return self.path / "repo"

    @property
    def packages(self) -> Path:
        return self.path / "packages"

    @property
    def database(self) -> Path:
        return self.path / "operator.db"

    def make(self) -> None:
        """Create the folder for this user alone, when it is not there; StoreError."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise disk.store_error(self.path, error) from error

    def load_settings(self) -> FleetSettings:
        """Read fleet.toml; ConfigError names the file and the key, or says how to make one."""
        path = self.settings_file
        if not exists(path):
            raise ConfigError(f"there is no {path}; make one: {self.command(EXAMPLE)}")
        return _settings(read_toml(path), str(path))

    def write_settings(self, site: str, mqtt: Mapping[str, object], force: bool = False) -> FleetSettings:
        """Write fleet.toml from the keys of [mqtt] that are not None; the settings as they will be read.

        Raises UsageError (it exists and not ``force``, or a value is not allowed), StoreError.
        """
        try:
            taken = self.settings_file.exists()
        except OSError as error:
            raise disk.store_error(self.settings_file, error) from error
        if taken and not force:
            raise UsageError(f"{self.settings_file} exists; --force replaces it")
        tables: dict[str, Mapping[str, Any]] = {
            "fleet": {"site": site},
            "mqtt": {key: value for key, value in mqtt.items() if value is not None},
        }
        try:
            settings = _settings(tables, "this would not be a valid fleet.toml")
        except ConfigError as error:
            raise UsageError(str(error)) from error
        self.make()
        disk.write(self.settings_file, _toml(tables).encode())
        return settings


def unreadable(path: Path, error: OSError) -> StoreError:
    """The StoreError for a file or folder of the operator's that cannot be read: which one, and what to do."""
    if isinstance(error, PermissionError):
        return StoreError(
            f"{path}: {error.strerror}; this user (uid {os.geteuid()}) must be able to read the operator's folder; "
            "run this as its owner, or name another folder: --home DIR"
        )
    return disk.store_error(path, error)


def parse_broker(text: str, tls: bool = False) -> tuple[str, int]:
    """Host and port of ``HOST[:PORT]`` (IPv6 in brackets); without a port MQTT's own. UsageError otherwise."""
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = text, str(MQTTS_PORT if tls else MQTT_PORT)
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    right = _is_ipv6(bare) if bare != host else re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?", bare)
    if not right or not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65_535):
        # Not repeated: an address may have a password in it, and a script's output is kept.
        raise UsageError("the broker's address is not HOST:PORT alone, e.g. localhost:1883 or [::1]:1883")
    return bare, int(port)


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _settings(tables: Mapping[str, Any], where: str) -> FleetSettings:
    try:
        return from_table(FleetSettings, tables)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain_validation(error)}") from error


def _toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Tables of strings and integers as TOML, whose basic strings and integers are JSON's."""
    lines = []
    for table, values in tables.items():
        lines.append(f"[{table}]")
        lines += [
            f"{key} = {json.dumps(value if isinstance(value, int) else str(value), ensure_ascii=False)}"
            for key, value in values.items()
        ]
    return "\n".join(lines) + "\n"
