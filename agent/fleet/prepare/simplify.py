"""Fewer operators for the same numbers: ONNX Runtime's own graph optimisation, written to a file.

Its basic level folds constants, fuses BatchNormalization, Mul and Add into convolutions, MatMul and Add into Gemm, and
drops Dropout and Identity; what comes out is standard ONNX for any device.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from agent.devices.onnx_cpu import PROVIDER
from agent.errors import ModelLoadError, OverlaidError, UnsupportedOperator, UnsupportedOpset, one_line


def simplify(model: bytes) -> bytes:
    """The simplified model. Raises UnsupportedOperator (a node that ONNX Runtime has no kernel for), ModelLoadError."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "simplified.onnx"
        _optimise(model, out)
        proto = onnx.load(out)
    before = onnx.load_model_from_string(model)
    _tidy(proto, before.ir_version)
    return bytes(proto.SerializeToString())


def _optimise(model: bytes, out: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(out)
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(model, options, providers=[PROVIDER])
    except Exception as error:  # the runtime's errors share no base class but Exception
        raise refused(error) from error


def refused(error: Exception) -> OverlaidError:
    """What ONNX Runtime's refusal to load means."""
    text = one_line(error)
    if "ValidateOpsetForDomain" in text:
        return UnsupportedOpset(
            "the model's opset is newer than this machine's onnxruntime takes; update onnxruntime, or export the model "
            "with opset 17"
        )
    if "NOT_IMPLEMENTED" in text or "is not a registered function/op" in text:
        return UnsupportedOperator(
            f"target cpu: ONNX Runtime has no kernel for an operator: {text}; export the model with another operator "
            "or another type in its place"
        )
    return ModelLoadError(f"ONNX Runtime does not load the model: {text}; export it again, with opset 17")


def _tidy(proto: Any, ir_version: int) -> None:
    """Only domains that are used, a name for every node, the IR version that the model came with."""
    used = {"" if node.domain == "ai.onnx" else node.domain for node in proto.graph.node}
    kept = [each for each in proto.opset_import if each.domain in used or each.domain == ""]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)
    proto.ir_version = max(ir_version, 8)
    name_nodes(proto)


def name_nodes(proto: Any) -> None:
    """A name of its own for every node: quantisation and reports know them by it."""
    seen: set[str] = set()
    for node in proto.graph.node:
        name = node.name or node.output[0]
        while name in seen:
            name += "'"
        node.name = name
        seen.add(name)
