"""Payloads on the wire: JSON, every one bounded and validated (docs/wire.md).

Signed payloads (desired, command) travel in an envelope of ``agent.trust``; opening them is pure.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from agent.bindings import MAX_BINDINGS, check_bindings
from agent.errors import Expired, MessageError, WrongTarget
from agent.link.topics import OPS, Target
from agent.trust import Keyring, PrivateKey, seal, unseal
from agent.types import (
    MAX_MODELS,
    Binding,
    BoardInfo,
    DesiredModel,
    DesiredState,
    Phase,
    State,
    check_digest,
    check_metadata_name,
    check_name,
    check_version,
    to_jsonable,
)
from agent.validation import explain_validation

MAX_CONTROL_BYTES = 256 * 1024
MAX_LOG_BYTES = 96 * 1024  # AWS IoT Core ends the connection at 128 KB, again at each connect
MAX_LOG_SPAN_S = 366 * 86_400.0

Name = Annotated[str, AfterValidator(check_name)]
Version = Annotated[str, AfterValidator(check_version)]
Digest = Annotated[str, AfterValidator(check_digest)]
MetadataName = Annotated[str, AfterValidator(check_metadata_name)]
CommandId = Annotated[str, Field(pattern=r"^[0-9a-z][0-9a-z-]{0,62}$")]


class Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def encode(self) -> bytes:
        return self.model_dump_json(exclude_none=True).encode()


class Desired(Message):
    """What a target shall run; retained, signed. ``revision`` only ever grows."""

    target: str
    revision: int = Field(ge=1, le=2**53)
    issued: float
    expires: float
    models: list[DesiredModel] = Field(default_factory=list, max_length=MAX_MODELS)
    power_cap_w: float | None = Field(None, gt=0)
    bindings: list[Binding] = Field(default_factory=list, max_length=MAX_BINDINGS)

    def state(self) -> DesiredState:
        """As the value that ``deploy`` works on."""
        return DesiredState(
            self.revision,
            self.issued,
            self.expires,
            tuple(self.models),
            self.power_cap_w,
            tuple(self.bindings),
        )

    @model_validator(mode="after")
    def _consistent(self) -> Desired:
        if len({model.name for model in self.models}) != len(self.models):
            raise ValueError("models: a name appears twice")
        check_bindings(self.bindings)
        return self

    @classmethod
    def of(cls, target: Target, state: DesiredState) -> Desired:
        return parse(cls, json.dumps({"target": str(target), **to_jsonable(state)}).encode())


class Command(Message):
    """One-off work; signed. ``sequence`` grows per signing key over all targets. ``lines``, ``since_s`` (seconds before
    now) and ``max_bytes`` (of the rows' JSON) bound ``logs``."""

    target: str
    id: CommandId
    op: Literal["logs", "bench", "cancel", "restart", "download"]
    sequence: int = Field(ge=1, le=2**53)
    issued: float
    expires: float
    model: Name | None = None
    lines: int = Field(100, ge=1, le=1000)
    since_s: float | None = Field(None, gt=0, le=MAX_LOG_SPAN_S)
    max_bytes: int | None = Field(None, ge=1024, le=MAX_LOG_BYTES)


class Result(Message):
    """The end (or a step) of a command."""

    id: CommandId
    op: Literal["logs", "bench", "cancel", "restart", "download"]
    state: State = Field(strict=False)
    why: str = Field("", max_length=1000)
    output: dict[str, Any] = Field(default_factory=dict)


class ReportedModel(Message):
    name: Name
    version: Version
    state: State = Field(strict=False)
    phase: Phase | None = Field(None, strict=False)
    progress: float | None = None
    why: str = Field("", max_length=1000)
    device: str | None = None
    variant: str | None = None
    backend: str | None = None
    running_version: str | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    received_bytes: int | None = None
    asked_again_bytes: int | None = None


class ReportedBinding(Message):
    """How a binding does; what it counts is the node's own to show."""

    input_topic: str
    model: Name
    output_topic: str
    state: Literal["RUNNING", "WAITING", "REFUSED"]
    why: str = Field("", max_length=1000)


class Reported(Message):
    """What the node runs; retained. ``why`` is set when the newest desired state was refused as a whole."""

    revision_seen: int
    revision_applied: int
    time: float
    models: list[ReportedModel] = Field(default_factory=list, max_length=MAX_MODELS)
    power_cap_w: float | None = None
    why: str = Field("", max_length=1000)
    bindings: list[ReportedBinding] = Field(default_factory=list, max_length=MAX_BINDINGS)


class Status(Message):
    """Birth and last will, matched by ``boot_id``; retained."""

    online: bool
    boot_id: str = Field(max_length=64)


class Capabilities(Message):
    """Devices, runtimes and power sensors as probed; retained."""

    agent_version: str
    board: dict[str, Any]
    groups: list[Name] = Field(default_factory=list)

    @classmethod
    def of(cls, version: str, board: BoardInfo, groups: tuple[str, ...]) -> Capabilities:
        return cls(agent_version=version, board=to_jsonable(board), groups=list(groups))


class BlockRequest(Message):
    """Up to 16 blocks of one package, by digest; the digest of the package itself asks for its manifest."""

    blocks: list[Digest] = Field(min_length=1, max_length=16)


class RepoRequest(Message):
    """Up to 8 files of the TUF repository's metadata."""

    names: list[MetadataName] = Field(min_length=1, max_length=8)


class TelemetryBatch(Message):
    """Rows of one stream; ``sequence`` grows by one per batch within a ``series``, over restarts of the node."""

    series: str = Field(pattern=r"^[0-9a-z]{1,64}$")
    boot_id: str = Field(max_length=64)
    sequence: int = Field(ge=1, le=2**53)
    time: float
    rows: list[dict[str, Any]] = Field(max_length=1000)


class DeploymentEnd(Message):
    """A row of the stream ``events``: how a deployment ended. ``id`` (the node's own) and ``ended`` make it unique."""

    stream: Literal["deployment"] = "deployment"
    id: int = Field(ge=1, le=2**53)
    ended: float
    origin: str = Field(max_length=64)
    target: str = Field(max_length=200)
    revision: int = Field(ge=0, le=2**53)
    model: Name
    version: Version
    digest: Digest
    state: State = Field(strict=False)
    phase: Phase | None = Field(None, strict=False)
    why: str = Field("", max_length=1000)


M = TypeVar("M", bound=Message)


def parse(kind: type[M], data: bytes) -> M:
    """Parse a payload; MessageError names the first offending keys. Unknown keys are refused."""
    if len(data) > MAX_CONTROL_BYTES:
        raise MessageError(f"{kind.__name__.lower()}: {len(data)} bytes, more than {MAX_CONTROL_BYTES}")
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise MessageError(f"{kind.__name__.lower()}: {explain_validation(error)}") from error


S = TypeVar("S", Desired, Command)


def sign(message: Desired | Command, key: PrivateKey) -> bytes:
    """The signed envelope's exact bytes."""
    return seal(type(message).__name__.lower(), message.encode(), key)


def open_signed(kind: type[S], data: bytes, keys: Keyring, target: Target, now: float) -> tuple[str, S]:
    """Verify, parse and check address and expiry; returns (key id, message). Pure.

    Raises MessageError, UnknownKey, BadSignature, WrongTarget, Expired. Replay is checked against persisted state
    by ``deploy.journal``.
    """
    if len(data) > MAX_CONTROL_BYTES:
        raise MessageError(f"{kind.__name__.lower()}: {len(data)} bytes, more than {MAX_CONTROL_BYTES}")
    opened = unseal(kind.__name__.lower(), data, keys)
    message = parse(kind, opened.payload)
    if message.target != str(target):
        raise WrongTarget(f"addressed to {message.target[:130]}, delivered to {target}: refused")
    if message.expires <= now:
        raise Expired(
            f"expired {now - message.expires:.0f} s ago; the operator must issue it again (overlaid fleet serve renews)"
        )
    return opened.key_id, message


__all__ = [
    "OPS",
    "BlockRequest",
    "Capabilities",
    "Command",
    "Desired",
    "RepoRequest",
    "Reported",
    "Result",
    "Status",
    "parse",
]
