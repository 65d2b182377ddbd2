"""A TFLite file as a Source: INT8 as it is, float brought into the same graph as ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from agent.errors import ModelLoadError, UnsupportedOperator, WeightsNotFinite
from agent.fleet.prepare.onnx_load import finish
from agent.fleet.prepare.simplify import simplify
from agent.fleet.prepare.tflite_graph import convert
from agent.fleet.prepare.values import Source, Steps
from agent.overlay.importers.tflite_model import Model, Tensor, read_tflite

CUSTOM = "CUSTOM"


def load_tflite(path: Path, data: bytes, name: str) -> Source:
    """Raises ModelLoadError, UnsupportedOperator and WeightsNotFinite."""
    model = read_tflite(data)
    if not model.operators:
        raise ModelLoadError(f"{path.name} has no operators; export the model again")
    _check(model)
    if is_quantised(model):
        return _kept(model, data, name)
    graph, hybrid = convert(model)
    simplified = simplify(graph.SerializeToString())
    notes = ["converted from TFLite"]
    if hybrid:
        notes.append(
            f"its INT8 weights ({len(hybrid)} layers) are real numbers again; activations were never INT8"
        )
    return finish(data, len(data), simplified, name, "tflite", False, len(graph.graph.node), notes)


def _check(model: Model) -> None:
    custom = [each for each in model.operators if each.kind == CUSTOM]
    if custom:
        raise UnsupportedOperator(
            f"the operators that write {', '.join(repr(each.node) for each in custom[:5])} are custom ones, which no "
            "runtime here knows; convert the model with TFLITE_BUILTINS alone"
        )
    for tensor in model.tensors.values():
        if tensor.data is not None and tensor.data.dtype.kind == "f" and not np.isfinite(tensor.data).all():
            readers = [each.node for each in model.operators if tensor.name in each.inputs]
            raise WeightsNotFinite(
                f"weights {tensor.name!r}, which the operators that write {readers} read, hold NaN or infinity; take "
                "a checkpoint from before the training diverged, and export it again"
            )


def is_quantised(model: Model) -> bool:
    """Whether activations are INT8 (or UINT8), not only weights."""
    return any(
        model.tensors[each].scales.size == 1 and model.tensors[each].dtype in ("INT8", "UINT8", "INT16")
        for operator in model.operators
        for each in operator.outputs
    )


def _kept(model: Model, data: bytes, name: str) -> Source:
    steps = {
        each: made
        for each in (*model.inputs, *model.outputs)
        if (made := _steps(model.tensors[each])) is not None
    }
    return Source(
        name=name, came_as="tflite", format="tflite", quantised=True, original=data, original_size=len(data),
        model=data, inputs=tuple(model.tensors[each].spec() for each in model.inputs),
        outputs=tuple(model.tensors[each].spec() for each in model.outputs), steps=steps,
    )  # fmt: skip


def _steps(tensor: Tensor) -> Steps | None:
    if tensor.scales.size != 1:
        return None
    return Steps(float(tensor.scales[0]), int(tensor.zero_points[0]))
