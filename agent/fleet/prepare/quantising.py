"""INT8 models from a float one and the ranges of its activations, by the rules of who runs them."""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.errors import ModelLoadError, one_line
from agent.fleet.prepare.calibrating import Ranges
from agent.fleet.prepare.channels import read_by
from agent.fleet.prepare.values import Rules

# Activations are UINT8, weights INT8 with a scale for each output, for all.
#
# CPU: weights in -64..64, because x86 without VNNI adds pairs of U8S8 products in 16 bits (2 * 255 * 64 still fits).
# Overlay: all 8 bits, its sums have 32; only what it runs is INT8, since other operators would gain nothing and lose
# accuracy. Operators that only move bytes are INT8 so that segments hang together.
OVERLAY_OPERATORS = frozenset({
    "Conv", "Gemm", "MatMul", "Add", "MaxPool", "GlobalAveragePool", "Softmax", "Relu", "Clip", "Reshape", "Flatten",
    "Squeeze", "Unsqueeze", "Transpose",
})  # fmt: skip
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul", "GlobalAveragePool", "AveragePool", "Softmax",
          "Concat", "Sigmoid")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layer:
    """A node that computes: quantising it costs accuracy. ``parameters``: numbers in its constants."""

    name: str
    operator: str
    parameters: int


def layers_of(model: bytes, rules: Rules) -> list[Layer]:
    """What may be quantised, and may be kept in float, in the order of the model."""
    import onnx

    graph = onnx.load_model_from_string(model).graph
    sizes = {each.name: _size(each.dims) for each in graph.initializer}
    allowed = set(_operators(rules))
    return [
        Layer(node.name, node.op_type, sum(sizes.get(name, 0) for name in node.input))
        for node in graph.node
        if node.op_type in LAYERS and node.op_type in allowed
    ]


def _size(dims: Any) -> int:
    size = 1
    for each in dims:
        size *= int(each)
    return size


def _operators(rules: Rules) -> list[str]:
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    both = set(QDQRegistry) | set(QLinearOpsRegistry)
    return sorted(both & OVERLAY_OPERATORS if rules == "npu" else both)


def quantise(
    model: bytes, ranges: Ranges, rules: Rules, float_layers: Collection[str] = (), qlinear: bool = False
) -> bytes:
    """A QDQ model, or one of QLinear operators. ``float_layers``: nodes that stay as they are, with the activations
    right after them. Raises ModelLoadError for a model that onnxruntime.quantization cannot take.
    """
    left = [*_with_followers(model, float_layers), *_shared_activations(model, qlinear)]
    return _made(model, ranges, rules, [], left, qlinear)


def quantise_alone(model: bytes, ranges: Ranges, rules: Rules, layer: str) -> bytes:
    """A QDQ model of which one layer is INT8."""
    return _made(model, ranges, rules, [layer], [], False)


def _made(
    model: bytes, ranges: Ranges, rules: Rules, only: list[str], left: list[str], qlinear: bool
) -> bytes:
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import QuantizationMode, load_model_with_shape_infer

    narrow = rules == "cpu"
    rest: tuple[Any, ...] = (
        QuantType.QInt8, QuantType.QUInt8, ranges.tensors, only, left, _operators(rules), dict[str, Any](),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, _quiet():
        source = Path(folder) / "model.onnx"
        source.write_bytes(model)
        try:
            proto = load_model_with_shape_infer(source)
            quantiser = (
                ONNXQuantizer(proto, True, narrow, QuantizationMode.QLinearOps, True, *rest)
                if qlinear
                else QDQQuantizer(proto, True, narrow, *rest)
            )
            quantiser.quantize_model()
            quantiser.model.topological_sort()
        except Exception as error:  # whatever trips over an unusual graph
            raise ModelLoadError(
                f"onnxruntime.quantization does not take the model ({one_line(error)[:200]}); export it in FP32 "
                "with opset 17, or quantise it before"
            ) from error
        made = quantiser.model.model
    for each in list(made.metadata_props):
        if each.key.startswith("onnx.infer"):
            made.metadata_props.remove(each)
    del made.graph.value_info[:]
    assert isinstance(made, onnx.ModelProto)
    return bytes(made.SerializeToString())


def _with_followers(model: bytes, layers: Collection[str]) -> Iterator[str]:
    """The layers with the Relu or Clip after each: a lone quantised Relu would quantise what they give."""
    import onnx

    wanted = set(layers)
    given: set[str] = set()
    for node in onnx.load_model_from_string(model).graph.node if wanted else ():
        if node.name in wanted or (node.op_type in ("Relu", "Clip") and node.input[0] in given):
            yield node.name
            given.update(node.output)


def _shared_activations(model: bytes, qlinear: bool) -> Iterator[str]:
    """Relus and Clips that onnxruntime.quantization must not melt into the range of what they read, since others need
    what that cuts off: the caller, when it is an output of the model; other nodes, which only the QLinear form forgets.
    """
    import onnx

    graph = onnx.load_model_from_string(model).graph
    outputs = {each.name for each in graph.output}
    readers = Counter(name for node in graph.node for name in read_by(node))
    for node in graph.node:
        if node.op_type in ("Relu", "Clip"):
            read = node.input[0]
            if read in outputs or (qlinear and readers[read] > 1):
                yield node.name


@contextmanager
def _quiet() -> Iterator[None]:
    """onnxruntime.quantization logs advice by the root logger that is followed here already."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
