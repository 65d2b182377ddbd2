"""An ONNX file as a Source: checked, its weights inside, its opset one that can be quantised, simplified."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from agent.errors import DynamicShape, ModelLoadError, ModelTooLarge, UnsupportedOpset, one_line
from agent.fleet.prepare import onnx_checks
from agent.fleet.prepare.simplify import name_nodes, refused, simplify
from agent.fleet.prepare.values import Source, Steps
from agent.overlay.importers.onnx_model import DTYPES, MAX_BYTES
from agent.types import TensorSpec

QUANTISABLE = 13  # from here on QuantizeLinear has scales per channel
WANTED = 17
MIXED = ("ConvInteger", "MatMulInteger", "QuantizeLinear", "DynamicQuantizeLinear", "QGemm", "QAttention")


def load_onnx(path: Path, data: bytes, name: str) -> Source:
    """Raises the errors of ``onnx_checks``, ModelLoadError, UnsupportedOpset and UnsupportedOperator."""
    import onnx

    proto = _parsed(path, data)
    onnx_checks.check_operators(proto)
    onnx_checks.check_inputs(proto)
    onnx_checks.check_weights(proto)
    size = original_size(path, data)
    notes = ["the weights from outside lie in the file now"] if size > len(data) else []
    before = len(proto.graph.node)
    quantised = is_quantised(proto)
    if quantised:
        model = _loaded(bytes(proto.SerializeToString()) if size > len(data) else data)
    else:
        _drop_constant_inputs(proto)
        proto = _raised(proto, notes)
        name_nodes(proto)
        model = simplify(bytes(proto.SerializeToString()))
        onnx_checks.check_outputs(onnx.load_model_from_string(model))
    return finish(data, size, model, name, "onnx", quantised, before, notes)


def finish(
    data: bytes,
    size: int,
    model: bytes,
    name: str,
    came_as: Literal["onnx", "tflite"],
    quantised: bool,
    before: int,
    notes: list[str],
) -> Source:
    """A Source of an ONNX ``model`` that had ``before`` nodes before it was simplified. ``data``: the file as it came,
    ``size``: with its external data."""
    import onnx

    proto = onnx.load_model_from_string(model)
    after = len(proto.graph.node)
    if after < before:
        notes.append(f"simplified from {before} to {after} operators")
    inputs, outputs = specs(proto)
    return Source(
        name=name, came_as=came_as, format="onnx", quantised=quantised, original=data,
        original_size=size, model=model, inputs=inputs, outputs=outputs,
        steps=dict[str, Steps](), notes=tuple(notes),
    )  # fmt: skip


def original_size(path: Path, data: bytes) -> int:
    """Bytes of the model as it came, with its external data."""
    import onnx

    proto = onnx.load_model_from_string(data)
    outside = {
        entry.value
        for each in proto.graph.initializer
        if each.data_location == each.EXTERNAL
        for entry in each.external_data
        if entry.key == "location"
    }
    size: int = sum((path.parent / name).stat().st_size for name in outside)
    return len(data) + size


def _parsed(path: Path, data: bytes) -> Any:
    """The ModelProto with weights inside and functions written out."""
    import onnx
    from onnx import external_data_helper, inliner

    try:
        proto = onnx.load_model_from_string(data)
    except Exception as error:  # whatever a parser makes of a corrupt file
        raise ModelLoadError(
            f"{path.name} is no ONNX file ({one_line(error)[:160]}); export it again"
        ) from error
    if not proto.graph.node:
        raise ModelLoadError(f"{path.name} has no operators; export the model again")
    onnx_checks.check_size(proto, path, len(data))
    try:
        external_data_helper.load_external_data_for_model(proto, str(path.parent))
        if proto.functions:
            proto = inliner.inline_local_functions(proto)
    except Exception as error:  # a file beside it that is lost, or lies elsewhere
        raise ModelLoadError(
            f"{path.name}: its external data cannot be read ({one_line(error)[:200]}); keep the files that the export "
            "wrote together in one folder"
        ) from error
    return proto


def _drop_constant_inputs(proto: Any) -> None:
    """Initialisers that are inputs as well (IR 3) could be given by a caller, so nothing would fold or fuse them."""
    constants = {each.name for each in proto.graph.initializer}
    kept = [each for each in proto.graph.input if each.name not in constants]
    del proto.graph.input[:]
    proto.graph.input.extend(kept)


def is_quantised(proto: Any) -> bool:
    """Whether somebody has quantised it already: activations, not only weights."""
    return any(
        node.op_type in MIXED or node.op_type.startswith("QLinear")
        for node in onnx_checks.all_nodes(proto.graph)
    )


def _raised(proto: Any, notes: list[str]) -> Any:
    """The model for an opset in which it can be quantised per channel."""
    from onnx import version_converter

    opset = onnx_checks.opset_of(proto)
    if opset >= QUANTISABLE:
        return proto
    try:
        converted = version_converter.convert_version(proto, WANTED)
    except Exception as error:  # the converter's own errors share no base class
        raise UnsupportedOpset(
            f"the model is for opset {opset} and cannot be converted to {WANTED} ({one_line(error)[:200]}); export it "
            f"with opset {WANTED}"
        ) from error
    notes.append(f"converted from opset {opset} to {WANTED}")
    return converted


def _loaded(model: bytes) -> bytes:
    """The model as it is, once ONNX Runtime has loaded it."""
    from agent.devices.onnx_cpu import load

    try:
        load(model, threads=1)
    except Exception as error:  # the runtime's errors share no base class but Exception
        raise refused(error) from error
    return model


def specs(proto: Any) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs; ModelLoadError for a type that cannot be served, DynamicShape for an open output."""
    return (
        tuple(_spec(each, "input") for each in proto.graph.input),
        tuple(_spec(each, "output") for each in _inferred(proto).graph.output),
    )


def _inferred(proto: Any) -> Any:
    """The model with the shapes of its outputs."""
    from onnx import shape_inference

    try:
        return shape_inference.infer_shapes(proto, data_prop=True)
    except Exception as error:  # what onnx raises for operators whose inputs do not fit
        raise ModelLoadError(
            f"the operators do not fit together ({one_line(error)[:200]}); export again"
        ) from error


def _spec(value: Any, kind: str) -> TensorSpec:
    tensor = value.type.tensor_type
    dtype = "BYTES" if tensor.elem_type == 8 else DTYPES.get(tensor.elem_type)
    if dtype is None:
        raise ModelLoadError(
            f"{kind} {value.name!r} has a type that cannot be served; export it as FP32 or INT8"
        )
    sizes = [size.dim_value if size.HasField("dim_value") else -1 for size in tensor.shape.dim]
    if any(size < 1 for size in sizes[1:]) or not tensor.HasField("shape"):
        raise DynamicShape(
            f"{kind} {value.name!r} has the shape {sizes} (-1: open), only the first size may be open; export the "
            "model with fixed sizes"
        )
    try:
        return TensorSpec(value.name, dtype, tuple(sizes))
    except ValueError as error:
        raise ModelLoadError(f"{error}; export the model with other {kind}s") from error


def read_model(path: Path) -> bytes:
    """A file of at most MAX_BYTES. ModelTooLarge, ModelLoadError."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ModelTooLarge(
                f"{path} has {size} bytes, more than {MAX_BYTES}; store the weights as FP16 or INT8, or deploy a "
                "smaller model"
            )
        return path.read_bytes()
    except OSError as error:
        raise ModelLoadError(f"{path}: {error.strerror}; name a model file that can be read") from error
