"""Overlay programs as files (.npu, format "npu"): a header in JSON, binary sections, a digest.

``OVLNPROG``, schema (uint16), zero (uint16), bytes of the header (uint32), the header (programheader.Header), the
sections one after the other, SHA-256 of all that comes before it. Numbers are little-endian. Equal programs have
equal bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from agent.errors import OverlayLoadError, ProgramError, one_line
from agent.overlay.graph import Add, Conv, Foreign, Host, Layer, Pool, Tensor
from agent.overlay.program import Binding, Part, Program, ProgramStep, Segment
from agent.overlay.programcheck import check_program
from agent.overlay.programheader import (
    AddModel,
    BindingModel,
    ConvModel,
    Header,
    HostModel,
    LayerModel,
    PoolModel,
    SegmentModel,
    StepModel,
)
from agent.overlay.spec import Overlay, load_spec
from agent.types import TensorSpec
from agent.validation import explain_validation

MAGIC = b"OVLNPROG"
SCHEMA = 1
FORMAT = "npu"
SUFFIX = ".npu"
MAX_PROGRAM_BYTES = 1 << 31
MAX_HEADER_BYTES = 64 << 20
_HEAD = struct.Struct("<8sHHI")
_DIGEST_BYTES = 32
_ADVICE = "deploy it again, or make it anew with: overlaid overlay compile"


def write_program(program: Program) -> bytes:
    """The file of a program."""
    sections: list[bytes] = []
    header = {
        "name": program.name,
        "overlay": program.overlay,
        "version": program.version,
        "lanes": program.lanes,
        "inputs": [_plain(spec) for spec in program.inputs],
        "outputs": [_plain(spec) for spec in program.outputs],
        "tensors": [_plain(tensor) for _, tensor in sorted(program.tensors.items())],
        "steps": [_step(step, sections) for step in program.steps],
        "sections": [len(section) for section in sections],
    }
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    body = b"".join([_HEAD.pack(MAGIC, SCHEMA, 0, len(text)), text, *sections])
    return body + hashlib.sha256(body).digest()


def read_program(data: bytes, spec: Overlay | None = None) -> Program:
    """The program in a file, checked throughout: no descriptor leaves its regions, or the memories of its overlay.

    ``spec``: the overlay that it is to run on; None: the one that ships under the program's overlay id, if any.
    Raises ProgramError for what is truncated, corrupt, foreign or of another schema.
    """
    header, body = _open(data)
    if spec is not None and _overlay(header) != (wanted := (spec.id, spec.version, spec.lanes)):
        raise ProgramError(
            "the overlay program is for overlay {} version {} with {} lanes, not for {} version {} with {}; compile "
            "it for this overlay".format(*_overlay(header), *wanted)
        )
    try:
        sections = _sections(header, body)
        tensors = {each.name: Tensor(**_fields(each)) for each in header.tensors}
        program = Program(
            header.name,
            header.overlay,
            header.version,
            header.lanes,
            tuple(TensorSpec(**_fields(each)) for each in header.inputs),
            tuple(TensorSpec(**_fields(each)) for each in header.outputs),
            tensors,
            tuple(_read_step(each, tensors, sections) for each in header.steps),
        )
        check_program(program, spec or _shipped(header))
    except (ValueError, LookupError) as error:
        raise ProgramError(f"the overlay program is corrupt: {one_line(error)}; {_ADVICE}") from error
    return program


def _open(data: bytes) -> tuple[Header, bytes]:
    """The header and what follows it, once magic, schema and digest are right."""
    if data[: len(MAGIC)] != MAGIC:
        raise ProgramError(f"this is no overlay program (it does not begin with {MAGIC.decode()}); {_ADVICE}")
    if len(data) > MAX_PROGRAM_BYTES:
        raise ProgramError(f"the overlay program has {len(data)} bytes, more than {MAX_PROGRAM_BYTES}")
    if len(data) < _HEAD.size + _DIGEST_BYTES:
        raise ProgramError(f"the overlay program is truncated after {len(data)} bytes; {_ADVICE}")
    _, schema, _, length = _HEAD.unpack_from(data)
    if schema != SCHEMA:
        raise ProgramError(
            f"the overlay program has schema {schema}, and this agent reads {SCHEMA}; compile it with this version"
        )
    body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise ProgramError(f"the overlay program is truncated or corrupt (its SHA-256 is wrong); {_ADVICE}")
    end = _HEAD.size + length
    if length > MAX_HEADER_BYTES or end > len(body):
        raise ProgramError(f"the overlay program is corrupt: its header has {length} bytes; {_ADVICE}")
    try:
        return Header.model_validate_json(body[_HEAD.size : end]), body[end:]
    except ValidationError as error:
        raise ProgramError(
            f"the overlay program is corrupt: {explain_validation(error)}; {_ADVICE}"
        ) from error


def _overlay(header: Header) -> tuple[str, int, int]:
    return header.overlay, header.version, header.lanes


def _shipped(header: Header) -> Overlay | None:
    try:
        spec = load_spec(header.overlay)
    except OverlayLoadError:
        return None
    return spec if (spec.id, spec.version, spec.lanes) == _overlay(header) else None


def _sections(header: Header, body: bytes) -> list[bytes]:
    if sum(header.sections) != len(body):
        raise ValueError(f"its sections have {sum(header.sections)} bytes instead of {len(body)}")
    sections = []
    start = 0
    for length in header.sections:
        sections.append(body[start : start + length])
        start += length
    return sections


def _plain(value: Any) -> dict[str, Any]:
    """The fields of a dataclass, one level deep."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _fields(model: Any) -> dict[str, Any]:
    return {name: getattr(model, name) for name in type(model).model_fields if name != "kind"}


def _add(sections: list[bytes], data: bytes) -> int:
    sections.append(data)
    return len(sections) - 1


def _step(step: ProgramStep, sections: list[bytes]) -> dict[str, Any]:
    if isinstance(step, Host):
        return {**_plain(step), "kind": "host", "attributes": dict(step.attributes)}
    if isinstance(step, Part):
        model = _add(sections, step.model)
        return {**_plain(step.foreign), "kind": "cpu", "format": step.format, "model": model}
    return {
        **_plain(step),
        "kind": "segment",
        "layers": [_layer(layer, sections) for layer in step.layers],
        "inputs": [{**_plain(binding), "tensor": binding.tensor.name} for binding in step.inputs],
        "outputs": [{**_plain(binding), "tensor": binding.tensor.name} for binding in step.outputs],
        "data": _add(sections, step.data),
    }


def _layer(layer: Layer, sections: list[bytes]) -> dict[str, Any]:
    if not isinstance(layer, Conv):
        return {**_plain(layer), "kind": "pool" if isinstance(layer, Pool) else "add"}
    weights = layer.weights
    narrow = int(weights.min()) >= -128 and int(weights.max()) <= 127
    return {
        **_plain(layer),
        "kind": "conv",
        "kernel": list(weights.shape),
        "weights": _add(sections, weights.astype("<i1" if narrow else "<i2").tobytes()),
        "bias": _add(sections, layer.bias.astype("<i4").tobytes()),
        "scale": _add(sections, layer.scale.astype("<f4").tobytes()),
    }


def _read_step(model: StepModel, tensors: dict[str, Tensor], sections: Sequence[bytes]) -> ProgramStep:
    if isinstance(model, HostModel):
        return Host(**_fields(model))
    if isinstance(model, SegmentModel):
        given = _fields(model) | {
            "layers": tuple(_read_layer(each, sections) for each in model.layers),
            "inputs": tuple(_read_binding(each, tensors) for each in model.inputs),
            "outputs": tuple(_read_binding(each, tensors) for each in model.outputs),
            "data": sections[model.data],
        }
        return Segment(**given)
    return Part(
        Foreign(model.inputs, model.outputs, model.nodes, model.why), model.format, sections[model.model]
    )


def _read_binding(model: BindingModel, tensors: dict[str, Tensor]) -> Binding:
    return Binding(**(_fields(model) | {"tensor": tensors[model.tensor]}))


def _read_layer(model: LayerModel, sections: Sequence[bytes]) -> Layer:
    if isinstance(model, PoolModel):
        return Pool(**_fields(model))
    if isinstance(model, AddModel):
        return Add(**_fields(model))
    return _read_conv(model, sections)


def _read_conv(model: ConvModel, sections: Sequence[bytes]) -> Conv:
    out, into, kh, kw = model.kernel
    weights = sections[model.weights]
    elements = out * into * kh * kw
    if len(weights) not in (elements, 2 * elements):
        raise ValueError(f"layer {model.name}: {len(weights)} bytes of weights for {elements} weights")
    given = _fields(model) | {
        "weights": _array(weights, "<i1" if len(weights) == elements else "<i2", np.int16).reshape(
            model.kernel
        ),
        "bias": _array(sections[model.bias], "<i4", np.int32),
        "scale": _array(sections[model.scale], "<f4", np.float32),
    }
    del given["kernel"]
    if len(given["bias"]) != out or len(given["scale"]) != out:
        raise ValueError(f"layer {model.name}: a bias and a scale for each of {out} channels are not there")
    return Conv(**given)


def _array(data: bytes, stored: str, dtype: Any) -> NDArray[Any]:
    return np.frombuffer(data, stored).astype(dtype)
