"""The JSON of a request: which tensors, from where, and what is wanted back. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.serving.http.messages import RequestError
from agent.serving.protocol.data import Array, binary_size, from_json
from agent.serving.protocol.jsontext import parse_object
from agent.serving.protocol.numbers import whole
from agent.types import TensorSpec

MAX_ID = 1024
MAX_INT = 1 << 63
MAX_NAME = 256
# Parameters that change what a request means; ignoring one would answer another question.
UNSUPPORTED = ("sequence_id", "sequence_start", "sequence_end")


@dataclass(frozen=True, slots=True)
class RegionSlice:
    """Bytes of a registered shared-memory region."""

    name: str
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """An output that was asked for. ``region``: where it is written, else it is sent: ``binary`` or as JSON.

    ``classes``: 0 for the tensor itself, k for the k largest as "value:index" (classification): of each sample when
    ``samples``, which says that the first dimension is free.
    """

    name: str
    binary: bool = False
    region: RegionSlice | None = None
    classes: int = 0
    samples: bool = False


@dataclass(frozen=True, slots=True)
class Input:
    """One input's header: its data is in ``array`` (came as JSON), in ``region``, or ``size`` bytes of the body."""

    spec: TensorSpec
    shape: tuple[int, ...]
    size: int = 0
    region: RegionSlice | None = None
    array: Array | None = None


@dataclass(frozen=True, slots=True)
class Header:
    """What a request's JSON says; the fields are ``InferRequest``'s."""

    id: str | None
    inputs: tuple[Input, ...]
    outputs: tuple[Wanted, ...]
    timeout_s: float | None
    priority: int
    batch: int

    @property
    def has_json(self) -> bool:
        return any(given.array is not None for given in self.inputs)

    @property
    def shares(self) -> bool:
        """Whether shared memory is named, of which an output's is used only when the model has run."""
        regions = [given.region for given in self.inputs] + [wanted.region for wanted in self.outputs]
        return any(region is not None for region in regions)


def read_header(data: bytes, wants: Mapping[str, TensorSpec], gives: Mapping[str, TensorSpec]) -> Header:
    """Read it for a model with these inputs and outputs. Raises RequestError 400, 413."""
    document = parse_object(data)
    parameters = _parameters(document, "request")
    inputs: dict[str, Input] = {}
    for entry in _objects(document, "inputs"):
        spec = wants[_name(entry, wants, "input")]
        if spec.name in inputs:
            raise _bad(f"input {spec.name!r} is given twice")
        inputs[spec.name] = _input(entry, spec)
    missing = [name for name in wants if name not in inputs]
    if missing:
        raise _bad(f"inputs {missing} are missing")
    batches = {given.shape[0] for given in inputs.values() if given.spec.dynamic}
    if len(batches) > 1:
        raise _bad("the inputs have different batch sizes (first dimensions)")
    timeout_us = _count(parameters, "timeout", "request")
    return Header(
        _identifier(document),
        tuple(inputs.values()),
        _wanted(document, gives, _flag(parameters, "binary_data_output", False)),
        timeout_us / 1e6 if timeout_us else None,
        _count(parameters, "priority", "request"),
        batches.pop() if batches else 1,
    )


def _wanted(document: dict[str, Any], specs: Mapping[str, TensorSpec], binary: bool) -> tuple[Wanted, ...]:
    wanted: dict[str, Wanted] = {}
    for entry in _objects(document, "outputs") if "outputs" in document else ():
        name = _name(entry, specs, "output")
        if name in wanted:
            raise _bad(f"output {name!r} is asked for twice")
        wanted[name] = _output(entry, specs[name], binary)
    return tuple(wanted.values()) or tuple(
        Wanted(name, binary, samples=spec.dynamic) for name, spec in specs.items()
    )


def _input(entry: dict[str, Any], spec: TensorSpec) -> Input:
    where = f"input {spec.name!r}"
    if entry.get("datatype") != spec.dtype:
        raise _bad(f"{where}: datatype must be {spec.dtype}, not {_shown(entry.get('datatype'))}")
    shape = _shape(entry, spec)
    parameters = _parameters(entry, where)
    region = _region(parameters, where)
    sources: list[str] = [key for key in ("binary_data_size", "shared_memory_region") if key in parameters]
    sources += ["data"] if "data" in entry else []
    if len(sources) != 1:
        raise _bad(f"{where} needs its data from one place, it has {' and '.join(sources) or 'none'}")
    if "data" in entry:
        return Input(spec, shape, array=from_json(entry["data"], spec, shape))
    key = "shared_memory_byte_size" if region else "binary_data_size"
    size, fits = _count(parameters, key, where), binary_size(spec, shape)
    if fits is not None and size != fits:
        raise _bad(f"{where}: {key} {size} does not fit; {spec.dtype} {list(shape)} has {fits}")
    return Input(spec, shape, size, region)


def _output(entry: dict[str, Any], spec: TensorSpec, binary: bool) -> Wanted:
    where = f"output {spec.name!r}"
    parameters = _parameters(entry, where)
    region = _region(parameters, where)
    classes = _count(parameters, "classification", where)
    if region and (classes or _flag(parameters, "binary_data", False)):
        raise _bad(f"{where}: shared memory excludes classification and binary_data")
    if classes and spec.dtype in ("BYTES", "BOOL"):
        raise _bad(f"{where}: a {spec.dtype} tensor has no largest values to classify by")
    send_binary = not region and _flag(parameters, "binary_data", binary)
    return Wanted(spec.name, send_binary, region, classes, spec.dynamic)


def _bad(text: str) -> RequestError:
    return RequestError(400, text)


def _shown(value: Any) -> str:
    """For an error's text: anything may be huge."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return repr(value[:64] if isinstance(value, str) else value)[:80]


def _objects(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = document.get(key)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise _bad(f"{key!r} must be a list of objects")
    return value


def _parameters(entry: dict[str, Any], where: str) -> dict[str, Any]:
    parameters = entry.get("parameters", {})
    if not isinstance(parameters, dict):
        raise _bad(f"{where}: 'parameters' must be an object")
    for key in UNSUPPORTED:
        if parameters.get(key, 0) not in (0, ""):
            raise _bad(f"{where}: parameter {key!r} belongs to an extension that is not supported")
    return parameters


def _flag(parameters: dict[str, Any], key: str, default: bool) -> bool:
    value = parameters.get(key, default)
    if type(value) is not bool:
        raise _bad(f"parameter {key!r} must be true or false")
    return value


def _count(parameters: dict[str, Any], key: str, where: str) -> int:
    value = parameters.get(key, 0)
    count = whole(value)
    if count is None or not 0 <= count < MAX_INT:
        raise _bad(f"{where}: parameter {key!r} must be an integer from 0, not {_shown(value)}")
    return count


def _region(parameters: dict[str, Any], where: str) -> RegionSlice | None:
    name = parameters.get("shared_memory_region")
    offset, size = (_count(parameters, f"shared_memory_{key}", where) for key in ("offset", "byte_size"))
    if "shared_memory_region" not in parameters:
        if "shared_memory_byte_size" in parameters:
            raise _bad(f"{where}: shared_memory_byte_size without shared_memory_region")
        return None
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise _bad(f"{where}: shared_memory_region must be a string of 1 to {MAX_NAME} characters")
    if "shared_memory_byte_size" not in parameters:
        raise _bad(f"{where}: shared_memory_region without shared_memory_byte_size")
    return RegionSlice(name, offset, size)


def _identifier(document: dict[str, Any]) -> str | None:
    value = document.get("id")
    if value is not None and not (isinstance(value, str) and len(value) <= MAX_ID):
        raise _bad(f"'id' must be a string of at most {MAX_ID} characters")
    return value


def _name(entry: dict[str, Any], known: Mapping[str, TensorSpec], what: str) -> str:
    name = entry.get("name")
    if not isinstance(name, str) or name not in known:
        raise _bad(f"{what} {_shown(name)} is unknown; the model has {list(known)}")
    return name


def _shape(entry: dict[str, Any], spec: TensorSpec) -> tuple[int, ...]:
    value = entry.get("shape")
    shape = [whole(size) or 0 for size in value[:9]] if isinstance(value, list) else None
    if shape is None or not all(0 < size < 1 << 31 for size in shape):
        raise _bad(f"input {spec.name!r}: 'shape' must be a list of positive integers")
    fits = len(shape) == len(spec.shape) and all(
        want in (-1, got) for got, want in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        raise _bad(f"input {spec.name!r}: shape {str(shape)[:80]} does not fit {list(spec.shape)}")
    return tuple(shape)
