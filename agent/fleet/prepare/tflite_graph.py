"""A float TFLite model as an ONNX graph with the same inputs and outputs.

TFLite's pictures are [batch, height, width, channels], those of ONNX [batch, channels, height, width]: a tensor is kept
in the order in which it was made and turned when a reader wants the other one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.errors import UnsupportedOperator
from agent.overlay.importers.tflite_model import Model, Operator, Tensor
from agent.types import TensorSpec

OPSET = 17
FLOATS = {"FP32": 1}


class Graph:
    """An ONNX graph under construction. ``channels_first`` names are those that ONNX's own operators read."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.nodes: list[Any] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self.hybrid: list[str] = []
        # TFLite's own names of tensors that fused operators write run to hundreds of characters.
        self._labels = {
            name: f"{operator.kind.lower()}_{index}"
            for index, operator in enumerate(model.operators)
            for name in operator.outputs
        }
        self._plain: dict[str, str] = {
            name: name for name in model.inputs
        }  # tensor → its name in TFLite's order
        self._turned: dict[str, str] = {}  # tensor → its name with channels first

    def label(self, name: str) -> str:
        """A short name: the operator that writes the tensor, and its place in the file."""
        return self._labels.get(name, name)

    def tensor(self, name: str | None) -> Tensor:
        if name is None:
            raise ValueError("an input that must be there is missing")
        return self.model.tensors[name]

    def node(self, kind: str, inputs: list[str], output: str, name: str = "", **attributes: Any) -> str:
        """An operator, called ``name`` or as its output."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], name=name or output, **attributes))
        return output

    def constant(self, name: str, array: NDArray[Any]) -> str:
        self.constants[name] = array
        return name

    def plain(self, name: str) -> str:
        """The tensor as TFLite orders it."""
        if name not in self._plain:
            shape, turned = self.tensor(name).shape, self._turned[name]
            output = name if name in self.model.outputs else f"{self.label(name)}.nhwc"
            self._plain[name] = self.node("Transpose", [turned], output, perm=_perm(len(shape), last=True))
        return self._plain[name]

    def turned(self, name: str) -> str:
        """The tensor with its channels first; one without height and width as it is."""
        if len(self.tensor(name).shape) < 3:
            return self.plain(name)
        if name not in self._turned:
            shape = self.tensor(name).shape
            perm = _perm(len(shape), last=False)
            self._turned[name] = self.node(
                "Transpose", [self.plain(name)], f"{self.label(name)}.nchw", perm=perm
            )
        return self._turned[name]

    def is_turned(self, name: str) -> bool:
        """Whether it is there with channels first."""
        return name in self._turned

    def made(
        self, name: str, kind: str, inputs: list[str], *, turned: bool, activation: int = 0, **attributes: Any
    ) -> None:
        """The operator that gives the tensor ``name``, and its fused activation after it."""
        turned = turned and len(self.tensor(name).shape) > 2
        label = self.label(name)
        final = name if name in self.model.outputs and not turned else label
        (self._turned if turned else self._plain)[name] = final
        if activation == 0:
            self.node(kind, inputs, final, label, **attributes)
            return
        self.node(kind, inputs, f"{label}.linear", label, **attributes)
        self.activate(activation, f"{label}.linear", final)

    def activate(self, activation: int, source: str, target: str) -> None:
        """schema.fbs, ActivationFunctionType: 1 RELU, 2 RELU_N1_TO_1, 3 RELU6."""
        if activation == 1:
            self.node("Relu", [source], target, f"{target}.activation")
            return
        low, high = {2: (-1.0, 1.0), 3: (0.0, 6.0)}[activation]
        bounds = [
            self.constant(f"{target}.{part}", np.array(bound, np.float32))
            for part, bound in (("low", low), ("high", high))
        ]
        self.node("Clip", [source, *bounds], target, f"{target}.activation")

    def weights(self, name: str) -> NDArray[np.float32]:
        """A constant as real numbers; INT8 weights beside float activations (hybrid) as what they stand for."""
        tensor = self.tensor(name)
        if tensor.data is None:
            raise ValueError(f"{name!r} is no constant")
        if tensor.dtype == "FP32":
            return np.asarray(tensor.data, np.float32)
        self.hybrid.append(name)
        shape = [1] * tensor.data.ndim
        if tensor.scales.size > 1:
            shape[tensor.axis] = tensor.scales.size
        scales, zeros = tensor.scales.reshape(shape), tensor.zero_points.reshape(shape)
        return np.asarray((tensor.data.astype(np.float32) - zeros) * scales, np.float32)


def _perm(rank: int, last: bool) -> list[int]:
    """Axes that bring the channels last, or first after the batch."""
    return [0, *range(2, rank), 1] if last else [0, rank - 1, *range(1, rank - 1)]


def convert(model: Model) -> tuple[Any, list[str]]:
    """The ModelProto, and the names of the weights that were INT8. Raises UnsupportedOperator, which names them all."""
    from agent.fleet.prepare.tflite_operators import OPERATORS, Misfit

    graph = Graph(model)
    refused: dict[str, str] = {}
    for operator in model.operators:
        make = OPERATORS.get(operator.kind)
        if make is None:
            refused[_label(operator)] = "no such operator is converted"
        elif not refused:
            try:
                make(graph, operator)
            except Misfit as why:
                refused[_label(operator)] = str(why)
    if refused:
        first = next(iter(refused))
        raise UnsupportedOperator(
            f"{', '.join(list(refused)[:5])}{' …' if len(refused) > 5 else ''}: {refused[first]}; convert the model to "
            f"INT8 with TensorFlow's converter, or export it as ONNX (converted here: {', '.join(sorted(OPERATORS))})"
        )
    for name in model.outputs:
        graph.plain(name)
    return _proto(graph), graph.hybrid


def _label(operator: Operator) -> str:
    return f"{operator.kind} (which writes {operator.node!r})"


def _proto(graph: Graph) -> Any:
    from onnx import helper, numpy_helper

    model = graph.model
    made = helper.make_graph(
        graph.nodes,
        "model",
        [_value(graph.tensor(name).spec()) for name in model.inputs],
        [_value(graph.tensor(name).spec()) for name in model.outputs],
        [numpy_helper.from_array(array, name) for name, array in graph.constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def _value(spec: TensorSpec) -> Any:
    from onnx import helper

    if spec.dtype not in FLOATS:
        raise UnsupportedOperator(
            f"tensor {spec.name!r} is {spec.dtype}; only FP32 inputs and outputs are converted: convert the model again"
        )
    shape = ["N" if size == -1 else size for size in spec.shape]
    return helper.make_tensor_value_info(spec.name, FLOATS[spec.dtype], shape)
