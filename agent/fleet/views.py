"""What nodes say, as values: a topic and its payload → Heard → the node's view and the changes worth a line. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from agent.errors import MessageError
from agent.link.messages import (
    Capabilities,
    Message,
    Reported,
    ReportedBinding,
    ReportedModel,
    Result,
    Status,
    TelemetryBatch,
    parse,
)
from agent.mqtt import ROOT
from agent.types import check_name

_KINDS: Mapping[str, type[Message]] = {
    "status": Status,
    "reported": Reported,
    "capabilities": Capabilities,
    "telemetry": TelemetryBatch,
    "result": Result,
}
_LEVELS = {"telemetry": 1, "result": 2}  # below overlaid/v1/{site}/{node}/{kind}


def node_filters(site: str, *kinds: str) -> list[str]:
    """Topic filters for these kinds of message from every node of the site."""
    return ["/".join((ROOT, site, "+", kind, *("+" * _LEVELS.get(kind, 0)))) for kind in kinds]


def stream_filter(site: str, stream: str) -> str:
    """Topic filter for one stream of telemetry from every node of the site."""
    return f"{ROOT}/{site}/+/telemetry/{stream}"


@dataclass(frozen=True, slots=True)
class Heard:
    """One message from a node. ``time``: when it arrived (Unix seconds); ``retained``: it may be older than that;
    ``stream``: of telemetry."""

    node: str
    kind: str
    time: float
    message: Message
    retained: bool = False
    stream: str = ""

    @classmethod
    def parse(cls, site: str, topic: str, payload: bytes, time: float, retained: bool = False) -> Heard:
        """Raises MessageError for what is not a node's message on its own topic."""
        parts = topic.split("/")
        levels = len(ROOT.split("/"))
        if "/".join(parts[:levels]) != ROOT or parts[levels] != site or len(parts) < levels + 3:
            raise MessageError(f"{topic[:200]!r} is not a topic of a node of site {site}")
        node, kind, *rest = parts[levels + 1 :]
        if kind not in _KINDS or len(rest) != _LEVELS.get(kind, 0):
            raise MessageError(f"{topic[:200]!r} is not a topic that a node writes to")
        try:
            check_name(node, "node")
            stream = check_name(rest[0], "stream") if kind == "telemetry" else ""
        except ValueError as error:
            raise MessageError(str(error)) from error
        message = parse(_KINDS[kind], payload)
        if isinstance(message, Result) and rest != [message.op, message.id]:
            raise MessageError(f"result of {message.op} {message.id} on the topic of {'/'.join(rest)[:100]}")
        return cls(node, kind, time, message, retained, stream)

    @classmethod
    def stored(cls, node: str, kind: str, time: float, text: str) -> Heard:
        """Inverse of ``text``; MessageError when the database holds something else."""
        return cls(node, kind, time, parse(_KINDS[kind], text.encode()))

    def text(self) -> str:
        """For the database. Of telemetry only the heartbeat: stream rows belong to the node."""
        message = self.message
        if isinstance(message, TelemetryBatch):
            message = message.model_copy(update={"rows": []})
        return message.encode().decode()


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node as last heard, at ``heard`` (Unix seconds)."""

    node: str
    status: Status | None = None
    reported: Reported | None = None
    capabilities: Capabilities | None = None
    heard: float = 0.0

    @property
    def online(self) -> bool:
        return self.status is not None and self.status.online

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(self.capabilities.groups) if self.capabilities else ()

    def after(self, heard: Heard) -> NodeView:
        """The view once this message is known; results and telemetry only show that the node lives."""
        known = {heard.kind: heard.message} if heard.kind in ("status", "reported", "capabilities") else {}
        return replace(self, heard=max(self.heard, heard.time), **known)  # type: ignore[arg-type]

    def model(self, name: str) -> ReportedModel | None:
        models = self.reported.models if self.reported else ()
        return next((model for model in models if model.name == name), None)


@dataclass(frozen=True, slots=True)
class Event:
    """A change worth a line. ``data`` is the part of the message that changed."""

    time: float
    node: str
    kind: str
    text: str
    data: Mapping[str, Any]

    def line(self) -> dict[str, Any]:
        """As one JSON object."""
        return {"time": self.time, "node": self.node, "event": self.kind, "text": self.text, **self.data}


def changes(view: NodeView, heard: Heard) -> list[Event]:
    """What this message changes in the view that was current before it."""
    message = heard.message
    if isinstance(message, Reported):
        return list(_reported_changes(view, heard, message))
    if isinstance(message, Status) and message != view.status:
        return [
            _event(heard, "status", f"{'online' if message.online else 'offline'} (boot {message.boot_id})")
        ]
    if isinstance(message, Capabilities) and message != view.capabilities:
        return [_event(heard, "capabilities", describe_capabilities(message))]
    if isinstance(message, Result):
        why = f": {message.why}" if message.why else ""
        return [_event(heard, "result", f"{message.op} {message.id}: {message.state.value}{why}")]
    return []


def _event(heard: Heard, kind: str, text: str, message: Message | None = None) -> Event:
    shown = (message or heard.message).model_dump(mode="json", exclude_none=True)
    return Event(heard.time, heard.node, kind, text, {kind: shown})


def _reported_changes(view: NodeView, heard: Heard, new: Reported) -> Iterator[Event]:
    old = view.reported or Reported(revision_seen=0, revision_applied=0, time=0.0)

    def plain(kind: str, text: str, value: object) -> Event:
        return Event(heard.time, heard.node, kind, text, {kind: value})

    if new.why and new.why != old.why:
        yield plain("refused", f"desired state refused: {new.why}", new.why)
    for model in new.models:
        if _look(model) != _look(view.model(model.name)):
            yield _event(heard, "model", describe_model(model, progress=False), model)
    for gone in sorted({model.name for model in old.models} - {model.name for model in new.models}):
        yield plain("removed", f"{gone} removed", gone)
    yield from _binding_changes(heard, old, new)
    if new.power_cap_w != old.power_cap_w:
        cap = "none" if new.power_cap_w is None else f"{new.power_cap_w:g} W"
        yield plain("power_cap_w", f"power cap {cap}", new.power_cap_w)
    if new.revision_applied != old.revision_applied:
        yield plain("applied", f"revision {new.revision_applied} applied", new.revision_applied)


def _binding_changes(heard: Heard, old: Reported, new: Reported) -> Iterator[Event]:
    for binding in new.bindings:
        if binding not in old.bindings:
            yield _event(heard, "binding", describe_binding(binding), binding)
    bound = {(binding.input_topic, binding.output_topic) for binding in new.bindings}
    for binding in old.bindings:
        if (binding.input_topic, binding.output_topic) not in bound:
            text = f"{binding.input_topic} -> {binding.output_topic} unbound"
            yield _event(heard, "unbound", text, binding)


def _look(model: ReportedModel | None) -> tuple[object, ...] | None:
    # A new phase is worth a line, its progress and live latencies are not.
    if model is None:
        return None
    return (
        model.version, model.state, model.phase, model.why, model.device, model.variant, model.backend,
        model.running_version,
    )  # fmt: skip


def describe_state(model: ReportedModel, *, progress: bool = True) -> str:
    """State, and while it is in progress its phase and, with ``progress``, the phase's share."""
    phase = f" {model.phase.value}" if model.phase else ""
    share = (
        f" {model.progress:.0%}" if progress and model.progress is not None and not model.state.final else ""
    )
    return f"{model.state.value}{phase}{share}"


def describe_place(model: ReportedModel) -> str | None:
    """Variant, device and runtime; None before one is chosen."""
    if model.device is None:
        return None
    return f"{model.variant or '?'} on {model.device}" + (f" ({model.backend})" if model.backend else "")


def describe_model(model: ReportedModel, *, progress: bool = True) -> str:
    """One line: what became of a model; ``progress`` as for ``describe_state``."""
    parts = [
        f"{model.name} {model.version}: {describe_state(model, progress=progress)}",
        describe_place(model),
        model.why or None,
    ]
    if model.running_version not in (None, model.version):
        parts.insert(1, f"still serving {model.running_version}")
    return ", ".join(part for part in parts if part)


def describe_binding(binding: ReportedBinding) -> str:
    """One line: what is bound, and how it does."""
    why = f": {binding.why}" if binding.why else ""
    return f"{binding.input_topic} -> {binding.model} -> {binding.output_topic}: {binding.state}{why}"


def describe_capabilities(capabilities: Capabilities) -> str:
    """One line: agent version and device ids."""
    devices = capabilities.board.get("devices")
    ids = [str(d.get("id")) for d in devices if isinstance(d, dict)] if isinstance(devices, list) else []
    return f"overlaid {capabilities.agent_version}, devices: {', '.join(ids) or 'none'}"
