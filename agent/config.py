"""TOML file + environment → one frozen Config.

Every key of the file can be overridden by ``OVERLAID_<SECTION>_<KEY>`` (``OVERLAID_NODE_NAME=cam-7``); lists are
comma-separated there. Unknown keys are refused by name.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from agent.errors import ConfigError, TrustError
from agent.hours import Span
from agent.paths import config_file, default_runtime, default_state, read_toml
from agent.trust import PublicKey
from agent.types import check_name
from agent.validation import explain_validation, from_table

SLOWEST_BYTES = 1 << 20  # four of the largest blocks: two packages take turns, and one request may be lost

Name = Annotated[str, AfterValidator(check_name)]


def _public_key(text: str) -> str:
    try:
        PublicKey.parse(text)
    except TrustError as error:
        raise ValueError(str(error)) from error
    return text


KeyText = Annotated[str, AfterValidator(_public_key)]


def _hours(text: str) -> str:
    Span.parse(text)
    return text


Hours = Annotated[str, AfterValidator(_hours)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _default_node_name() -> str:
    host = socket.gethostname().split(".")[0].lower()
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in host).strip("-")[:63] or "node"


class Node(Section):
    """Who this node is. ``board``: an entry point of ``overlaid.boards``: ``local``, ``sim:NAME``, ``sim:NAME/rtl``."""

    site: Name = "default"
    name: Name = Field(default_factory=_default_node_name)
    groups: tuple[Name, ...] = ()
    board: str = Field("local", pattern=r"^[a-z0-9][a-z0-9:._/-]*$")


class Mqtt(Section):
    """The broker. TLS is on when ``ca`` is set; ``cert`` and ``key`` are the node's client certificate."""

    host: str = Field(min_length=1)
    port: int = Field(1883, ge=1, le=65535)
    username: str | None = None
    password: SecretStr | None = None
    password_file: Path | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    keepalive_s: int = Field(30, ge=5, le=3600)

    @field_validator("host")
    @classmethod
    def _bare(cls, host: str) -> str:
        # A host is logged and shown; an address with the password in it must not become one.
        if host and not re.fullmatch(r"[\w.:%-]+", host):
            raise ValueError("a host name or address alone: no scheme, user name, password or path")
        return host

    @model_validator(mode="after")
    def _complete(self) -> Mqtt:
        if self.password is not None and self.password_file is not None:
            raise ValueError("give password or password_file, not both")
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key belong together")
        if self.cert is not None and self.ca is None:
            raise ValueError("a client certificate needs ca, the broker's authority")
        return self

    def read_password(self) -> str | None:
        """The password from the config, or the first line of its file; ConfigError when there is none in it."""
        if self.password_file is None:
            return self.password.get_secret_value() if self.password else None
        try:
            password = (self.password_file.read_text().splitlines() or [""])[0].strip()
        except OSError as error:
            raise ConfigError(
                f"mqtt.password_file {self.password_file}: {error.strerror}; its first line must be the password"
            ) from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"mqtt.password_file {self.password_file}: not a text file") from error
        if not password:
            raise ConfigError(
                f"mqtt.password_file {self.password_file}: its first line, the password, is empty"
            )
        return password


class Trust(Section):
    """``root``: the operator's TUF root (``overlaid fleet repo init``), which says who may sign packages;
    ``command_keys``: public keys (``overlaid fleet keys show``) whose desired states and commands this node accepts."""

    root: Path | None = None
    command_keys: tuple[KeyText, ...] = ()


class Serving(Section):
    """``http`` is a loopback address; other addresses go through a reverse proxy. MB are MiB."""

    http: str = Field("127.0.0.1:8000", pattern=r"^(127\.0\.0\.1:\d{1,5}|)$")
    max_body_mb: int = Field(64, ge=1, le=1024)
    threads: int = Field(1, ge=1, le=256)
    worker_memory_mb: int = Field(1024, ge=128, le=1_000_000)
    shared_memory: bool = False

    @field_validator("http")
    @classmethod
    def _port(cls, http: str) -> str:
        if http and not 1 <= int(http.partition(":")[2]) <= 65535:
            raise ValueError("the port must be between 1 and 65535")
        return http


class Deploy(Section):
    """Deadlines in seconds of each phase, and how long a new version must behave before it counts as deployed."""

    soak_s: float = Field(10.0, ge=0, le=86_400)
    profile_s: float = Field(2.0, gt=0, le=60)
    download_timeout_s: float = Field(1800.0, gt=0, le=7 * 86_400)
    phase_timeout_s: float = Field(120.0, gt=0, le=86_400)


class Delivery(Section):
    """What downloads may use. ``max_kbit_s``: thousands of bits a second; ``download_hours``: ``22:00-06:00``, local
    time."""

    max_kbit_s: int | None = Field(None, ge=8, le=100_000_000)
    download_hours: tuple[Hours, ...] = Field((), max_length=16)

    @property
    def bytes_per_s(self) -> float | None:
        return None if self.max_kbit_s is None else self.max_kbit_s * 1000 / 8

    @property
    def spans(self) -> tuple[Span, ...]:
        return tuple(Span.parse(text) for text in self.download_hours)


class Power(Section):
    """``idle_w``, ``busy_w``: of the whole board, for an estimate where it has no sensor."""

    cap_w: float | None = Field(None, gt=0)
    sample_s: float = Field(1.0, ge=0.1, le=60)
    idle_w: float | None = Field(None, gt=0, le=10_000)
    busy_w: float | None = Field(None, gt=0, le=10_000)

    @model_validator(mode="after")
    def _both(self) -> Power:
        if (self.idle_w is None) != (self.busy_w is None):
            raise ValueError("idle_w and busy_w belong together")
        if self.idle_w is not None and self.busy_w is not None and self.busy_w <= self.idle_w:
            raise ValueError("busy_w must be more than idle_w")
        return self


class Telemetry(Section):
    """``max_mb``: kept here; ``outbox_mb``: of what waits for the broker. MB are MiB."""

    max_mb: int = Field(64, ge=1, le=100_000)
    publish_s: float = Field(60.0, ge=1, le=86_400)
    outbox_mb: int = Field(64, ge=1, le=10_000)


class Store(Section):
    max_mb: int = Field(2048, ge=1, le=10_000_000)


class Paths(Section):
    """``state``: survives reboots; ``runtime``: sockets."""

    state: Path = Field(default_factory=default_state)
    runtime: Path = Field(default_factory=default_runtime)


class Config(Section):
    """Everything the daemon is told. Without [mqtt] it serves what ``overlaid deploy`` gives it locally."""

    node: Node = Field(default_factory=Node)
    paths: Paths = Field(default_factory=Paths)
    mqtt: Mqtt | None = None
    trust: Trust = Field(default_factory=Trust)
    serving: Serving = Field(default_factory=Serving)
    deploy: Deploy = Field(default_factory=Deploy)
    delivery: Delivery = Field(default_factory=Delivery)
    power: Power = Field(default_factory=Power)
    telemetry: Telemetry = Field(default_factory=Telemetry)
    store: Store = Field(default_factory=Store)

    @model_validator(mode="after")
    def _download_can_end(self) -> Config:
        rate, limit_s = self.delivery.bytes_per_s, self.deploy.download_timeout_s
        if rate is not None and limit_s < (needed_s := SLOWEST_BYTES / rate):
            raise ValueError(
                f"delivery.max_kbit_s {self.delivery.max_kbit_s} lets a block take longer than "
                f"deploy.download_timeout_s; set that to {needed_s:.0f} or more"
            )
        return self


def load_config(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """Read the file (default: $OVERLAID_CONFIG, else /etc/overlaid/agent.toml if it exists) and the environment.

    Raises ConfigError naming the file, the key and what is allowed.
    """
    environ = os.environ if environ is None else environ
    chosen = config_file(path, environ)
    data = read_toml(chosen) if chosen else {}
    _apply_environment(data, environ)
    try:
        return from_table(Config, data)
    except ValidationError as error:
        raise ConfigError(f"{chosen or 'environment'}: {explain_validation(error)}") from error


def _from_text(value: str, annotation: str) -> Any:
    """An environment variable as the type of its key; what does not fit is left for the validation to name."""
    if "tuple" in annotation:
        return [item.strip() for item in value.split(",") if item.strip()]
    if any(kind in annotation for kind in ("float", "int", "bool")):
        with contextlib.suppress(ValueError):
            return json.loads(value)
    return value


def _apply_environment(data: dict[str, Any], environ: Mapping[str, str]) -> None:
    for section, field in Config.model_fields.items():
        kind = Mqtt if section == "mqtt" else field.annotation
        assert isinstance(kind, type) and issubclass(kind, Section)
        for key, spec in kind.model_fields.items():
            value = environ.get(f"OVERLAID_{section}_{key}".upper())
            if value is None:
                continue
            table = data.setdefault(section, {})
            if isinstance(table, dict):
                table[key] = _from_text(value, str(spec.annotation))
