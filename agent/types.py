"""Values that every room shares. Standard library only: workers, the CLI and the daemon all import this."""

from __future__ import annotations

import enum
import math
import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from agent.mqtt import NODE, check_filter, check_topic

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,62}")
DIGEST = re.compile(r"[0-9a-f]{64}")
METADATA_NAME = re.compile(r"([1-9][0-9]{0,8}\.)?[a-z0-9][a-z0-9-]{0,62}\.json")
# Values that arrive from outside are validated by pydantic where they enter; this module does not import it.
STRICT = {"extra": "forbid", "strict": True, "allow_inf_nan": False}
MAX_MODELS = 256  # on one node
MAX_INSTANCES = 16  # of one model
SELF_TEST = "self-test"  # the backend of an FPGA that opens the package of an overlay
PROGRAMS = "npu"  # the backend of an FPGA that runs programs on the overlay that they were made for
RESERVED_NAMES = frozenset({"group", "blocks", "repo", "enrol"})

# Bytes per element of the Open Inference Protocol's datatypes; of BYTES (strings) the length before each, an unsigned
# 32-bit little-endian integer.
DTYPE_SIZES = {
    "BOOL": 1, "INT8": 1, "UINT8": 1, "INT16": 2, "UINT16": 2, "FP16": 2,
    "INT32": 4, "UINT32": 4, "FP32": 4, "INT64": 8, "UINT64": 8, "FP64": 8, "BYTES": 4,
}  # fmt: skip


def check_name(value: str, what: str = "name") -> str:
    """Return ``value`` when it is a legal name of a site, node, group or model; ValueError otherwise."""
    if not NAME.fullmatch(value):
        raise ValueError(
            f"{what} {value!r} must be 1-63 characters of a-z, 0-9 and '-', not starting with '-'"
        )
    if value in RESERVED_NAMES:
        raise ValueError(f"{what} {value!r} is reserved; choose another")
    return value


def check_version(value: str) -> str:
    """Return ``value`` when it is a legal version; ValueError otherwise."""
    if not VERSION.fullmatch(value):
        raise ValueError(f"version {value!r} must be 1-63 characters of A-Z, a-z, 0-9 and '.+_-'")
    return value


def check_digest(value: str) -> str:
    """Return ``value`` when it is a SHA-256 in lower-case hex; ValueError otherwise."""
    if not DIGEST.fullmatch(value):
        raise ValueError(f"digest {value[:80]!r} must be 64 lower-case hex digits (SHA-256)")
    return value


def check_metadata_name(value: str) -> str:
    """Return ``value`` when it is the name of a file of a repository's metadata; ValueError otherwise."""
    if not METADATA_NAME.fullmatch(value):
        raise ValueError(f"metadata name {value[:80]!r} must be like timestamp.json or 3.snapshot.json")
    return value


class State(str, enum.Enum):
    """Execution states on the wire (AWS Jobs' words and SUPERSEDED)."""

    QUEUED = "QUEUED"
    IN_PROGRESS = "IN_PROGRESS"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    TIMED_OUT = "TIMED_OUT"
    REJECTED = "REJECTED"
    CANCELED = "CANCELED"
    SUPERSEDED = "SUPERSEDED"

    @property
    def final(self) -> bool:
        return self not in (State.QUEUED, State.IN_PROGRESS)


class Phase(str, enum.Enum):
    """Phases inside IN_PROGRESS, in order; ROLLING_BACK only after the route had flipped."""

    DOWNLOADING = "DOWNLOADING"
    VERIFYING = "VERIFYING"
    PROFILING = "PROFILING"
    ACTIVATING = "ACTIVATING"
    SOAKING = "SOAKING"
    ROLLING_BACK = "ROLLING_BACK"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of a model. ``shape`` is C order; only its first dimension may be -1 (any batch)."""

    __pydantic_config__ = STRICT

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.name) <= 256:
            raise ValueError("tensor name must have 1-256 characters")
        if self.dtype not in DTYPE_SIZES:
            raise ValueError(
                f"tensor {self.name!r}: dtype {self.dtype!r} is none of {', '.join(DTYPE_SIZES)}"
            )
        if len(self.shape) > 8:
            raise ValueError(f"tensor {self.name!r}: more than 8 dimensions")
        for axis, size in enumerate(self.shape):
            if size < 1 and not (axis == 0 and size == -1):
                raise ValueError(
                    f"tensor {self.name!r}: shape {list(self.shape)}: only the first dimension may be -1"
                )
        if self.nbytes() > 1 << 30:
            raise ValueError(f"tensor {self.name!r}: larger than 1 GiB")

    @property
    def dynamic(self) -> bool:
        return bool(self.shape) and self.shape[0] == -1

    def concrete(self, batch: int = 1) -> tuple[int, ...]:
        """The shape with the free dimension replaced by ``batch``."""
        return tuple(batch if size == -1 else size for size in self.shape)

    def fits(self, size: int, samples: int) -> bool:
        """Whether so many bytes can be ``samples`` tensors of batch 1: strings are as long as they like."""
        least = samples * self.nbytes()
        return size >= least if self.dtype == "BYTES" else size == least

    def nbytes(self, batch: int = 1) -> int:
        """Bytes in binary form; the least of them for BYTES."""
        return math.prod(self.concrete(batch)) * DTYPE_SIZES[self.dtype]


@dataclass(frozen=True, slots=True)
class Budget:
    """What a model may cost. ``power_w`` bounds the model's own average draw; ``priority`` 0 (low) to 9."""

    __pydantic_config__ = STRICT

    latency_p99_ms: float
    rate_hz: float
    power_w: float | None = None
    min_accuracy: float | None = None
    priority: int = 0

    def __post_init__(self) -> None:
        _within("latency_p99_ms", self.latency_p99_ms, 0.001, 3_600_000)
        _within("rate_hz", self.rate_hz, 0.0, 1_000_000)
        if self.power_w is not None:
            _within("power_w", self.power_w, 0.001, 100_000)
        if self.min_accuracy is not None:
            _within("min_accuracy", self.min_accuracy, 0.0, 1.0)
        _within("priority", self.priority, 0, 9)


def _within(what: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # as NaN; an integer may be too large to be a float
        raise ValueError(f"{what} must be between {low:g} and {high:g}, not {value!r}")


@dataclass(frozen=True, slots=True)
class DesiredModel:
    """One model of a desired state. ``digest`` is the SHA-256 of the manifest's exact bytes; ``instances``: runs
    at a time, on a CPU."""

    __pydantic_config__ = STRICT

    name: str
    version: str
    digest: str
    budget: Budget
    instances: int = 1

    def __post_init__(self) -> None:
        check_name(self.name, "model")
        check_version(self.version)
        check_digest(self.digest)
        _within("instances", self.instances, 1, MAX_INSTANCES)


@dataclass(frozen=True, slots=True)
class Binding:
    """Messages on ``input_topic`` (a filter) are run through ``model``, its answers published on ``output_topic``.

    ``format``: of both payloads (docs/mqtt-inference.md). What is over ``max_rate_hz`` is dropped. ``qos``: of the
    subscription and of what is published. ``{node}`` in a topic stands for the node's name.
    """

    __pydantic_config__ = STRICT

    input_topic: str
    model: str
    output_topic: str
    format: Literal["json", "raw"] = "json"
    max_rate_hz: float | None = None
    qos: Literal[0, 1] = 0

    def __post_init__(self) -> None:
        check_filter(self.input_topic, "input topic")
        check_name(self.model, "model")
        check_topic(self.output_topic, "output topic")
        if self.max_rate_hz is not None:
            _within("max_rate_hz", self.max_rate_hz, 0.001, 100_000)

    def __str__(self) -> str:
        return f"{self.input_topic} -> {self.model} -> {self.output_topic}"

    @property
    def key(self) -> tuple[str, str]:
        """What a binding is replaced, removed and overridden by: its input and output topic."""
        return self.input_topic, self.output_topic

    def on_node(self, name: str) -> Binding:
        """The binding as the node of this name runs it."""
        topics = {key: getattr(self, key).replace(NODE, name) for key in ("input_topic", "output_topic")}
        return replace(self, **topics)


@dataclass(frozen=True, slots=True)
class DesiredState:
    """What one target (a node or a group) shall run. ``expires`` and ``issued`` are Unix seconds."""

    revision: int
    issued: float
    expires: float
    models: tuple[DesiredModel, ...] = ()
    power_cap_w: float | None = None
    bindings: tuple[Binding, ...] = ()


@dataclass(frozen=True, slots=True)
class OverlayRef:
    """Which FPGA overlay a program was compiled for: all three must be equal for it to run."""

    __pydantic_config__ = STRICT

    id: str
    version: int
    lanes: int

    def __post_init__(self) -> None:
        check_name(self.id, "overlay")
        _within("version", self.version, 1, 65535)
        _within("lanes", self.lanes, 1, 64)

    def __str__(self) -> str:
        return f"{self.id} version {self.version} ({self.lanes} x {self.lanes} MAC)"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run a model: a variant of the package on a backend (runtime) of a device."""

    variant: str
    backend: str
    device: str

    def __str__(self) -> str:
        return f"{self.variant} on {self.device} ({self.backend})"


@dataclass(frozen=True, slots=True)
class Measurement:
    """A profiled candidate. Times in ms of device time, energy in joules per inference, memory in MB.

    ``p99_ms`` is the upper confidence bound of the 99th percentile, closed or open loop, whichever is more;
    ``confidence`` says how sure (0..1). ``open_p99_ms``: that of the open loop at the budget's rate, where it was run.
    ``joules`` is what a run costs above the loaded model's idling, ``joules_sigma`` its standard error, ``holding_w``
    what keeping it loaded costs, ``load_j`` what loading it took, and ``rest_w`` what the node drew without it.
    ``energy`` tags them: "measured", "estimated", "simulated" or "missing" (then they are None). ``max_batch``: how
    many requests one run may answer, because that pays; ``batch_gain``: requests answered in the same time, as a
    multiple, when runs of more than one do so best; None where that was not measured. ``parts``: mean ms of a run on
    each device that a composite placement uses; empty when all is on the candidate's. ``overlay``: what must be on the
    FPGA for it. ``measured``: Unix seconds; 0 when not known.
    """

    candidate: Candidate
    runs: int
    mean_ms: float
    p50_ms: float
    p99_ms: float
    confidence: float
    load_s: float
    memory_mb: float
    accuracy: float | None
    joules: float | None = None
    energy: str = "missing"
    holding_w: float | None = None
    rest_w: float | None = None
    max_batch: int = 1
    batch_gain: float | None = None
    open_p99_ms: float | None = None
    joules_sigma: float | None = None
    load_j: float | None = None
    parts: tuple[tuple[str, float], ...] = ()
    overlay: OverlayRef | None = None
    measured: float = 0.0

    def average_w(self, rate_hz: float) -> float | None:
        """Watts that the model adds to the node at this rate; None without an energy figure."""
        return None if self.joules is None else rate_hz * self.joules + (self.holding_w or 0.0)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a candidate was or was not chosen."""

    candidate: Candidate
    chosen: bool
    reason: str
    measurement: Measurement | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    """The decision for one model and every candidate's verdict. ``instances``: as in DesiredModel. ``shed``: it is not
    run for now, because others need what it would take or nothing is left to run it; ``candidate`` is where it ran."""

    model: str
    version: str
    digest: str
    budget: Budget
    candidate: Candidate
    reason: str
    verdicts: tuple[Verdict, ...]
    decided: float
    instances: int = 1
    shed: bool = False

    @property
    def measurement(self) -> Measurement | None:
        """What was measured of the candidate."""
        return next((v.measurement for v in self.verdicts if v.candidate == self.candidate), None)

    @property
    def max_batch(self) -> int:
        """See ``Measurement``; 1 where the candidate was not measured."""
        return self.measurement.max_batch if self.measurement else 1


@dataclass(frozen=True, slots=True)
class PowerSample:
    """Average watts of one rail since the previous sample; ``tag``: measured, estimated or simulated."""

    time: float
    rail: str
    watts: float
    tag: str = "measured"


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """A runtime that a device can use, e.g. onnxruntime 1.20 for ("onnx",)."""

    name: str
    version: str
    formats: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """A device as it is shown to people and told to the operator. ``kind``: cpu, gpu or fpga.

    ``note``: one line on its speed and watts, where they are known without measuring (simulated boards). ``overlays``:
    those that an FPGA can load without a package of their own. ``parallel``: threads that run beside each other
    without sharing (the cores that a CPU lets us use); 1 for a GPU or an FPGA.
    """

    id: str
    kind: str
    name: str
    backends: tuple[BackendInfo, ...]
    simulated: bool = False
    memory_mb: int | None = None
    note: str = ""
    overlays: tuple[OverlayRef, ...] = ()
    parallel: int = 1


@dataclass(frozen=True, slots=True)
class BoardInfo:
    """What probing found. ``problems`` name what was looked for and is not usable, with the reason. ``power_mode``: the
    setting of clocks under which it runs (a Jetson's nvpmodel, else the CPU's governor); empty where there is none.
    """

    name: str
    simulated: bool
    devices: tuple[DeviceInfo, ...]
    meters: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    power_mode: str = ""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What fetching blocks cost since the daemon began, in bytes. ``received``: all that came, also what other nodes
    asked for; ``useful``: of it, blocks that were taken; ``asked_again``: blocks that had been asked for before.
    ``wrong``: frames that were not what they said. ``waits_for``: why nothing is asked for now; ``waited_s``: for how
    long that was so, in all.
    """

    received: int = 0
    useful: int = 0
    asked_again: int = 0
    wrong: int = 0
    waits_for: str = ""
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model as the node reports it. Latencies in ms over the last minutes; None before any request.

    ``delivery``: of its package; None where nothing was fetched since the daemon began.
    """

    name: str
    version: str
    digest: str
    state: State
    phase: Phase | None = None
    progress: float | None = None
    why: str = ""
    running_version: str | None = None
    candidate: Candidate | None = None
    budget: Budget | None = None
    requests: int = 0
    errors: int = 0
    p50_ms: float | None = None
    p99_ms: float | None = None
    restarts: int = 0
    pid: int | None = None
    ready: bool = False
    origin: str = "fleet"
    delivery: Delivery | None = None


@dataclass(frozen=True, slots=True)
class BindingStatus:
    """One binding since it runs. ``why``: what it waits for, why it is refused, else what went wrong last.

    received = answered + over_rate + dropped + errors + what is under way; ``dropped``: newer messages took their
    place, or the connection was lost. ``p50_ms``, ``p99_ms``: message to answer over the last minutes.
    """

    binding: Binding
    state: Literal["RUNNING", "WAITING", "REFUSED"]
    why: str = ""
    received: int = 0
    answered: int = 0
    over_rate: int = 0
    dropped: int = 0
    errors: int = 0
    p50_ms: float | None = None
    p99_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The node at one instant; behind ``overlaid status``. Times are Unix seconds. ``delivery``: of all packages."""

    time: float
    node: str
    site: str
    boot_id: str
    agent_version: str
    started: float
    pid: int
    broker: str
    broker_connected: bool
    revision_seen: int
    revision_applied: int
    power_cap_w: float | None
    power_w: float | None
    http: str | None
    models: tuple[ModelStatus, ...] = ()
    board: BoardInfo | None = None
    warnings: tuple[str, ...] = field(default=())
    bindings: tuple[BindingStatus, ...] = ()
    delivery: Delivery = Delivery()


def to_jsonable(value: Any) -> Any:
    """Dataclasses, enums and tuples of this module as plain JSON values (None fields are kept)."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: to_jsonable(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, dict):
        return {str(key): to_jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_jsonable(item) for item in value]
    return value
