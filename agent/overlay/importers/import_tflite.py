"""INT8 TFLite models as graphs of the overlay."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from agent.errors import ModelLoadError, UnsupportedModel
from agent.overlay.graph import Foreign, Graph, Host, Pads
from agent.overlay.importers import tflite_layers
from agent.overlay.importers.building import Builder, Unfit, importing
from agent.overlay.importers.tflite_model import Model, Operator, Tensor, read_tflite

LAYERS: dict[str, Callable[[Builder, tflite_layers.Call], None]] = {
    "CONV_2D": tflite_layers.convolution,
    "DEPTHWISE_CONV_2D": tflite_layers.depthwise,
    "FULLY_CONNECTED": tflite_layers.connected,
    "ADD": tflite_layers.addition,
    "AVERAGE_POOL_2D": tflite_layers.average_pool,
    "MAX_POOL_2D": tflite_layers.max_pool,
    "MEAN": tflite_layers.mean,
    "QUANTIZE": tflite_layers.rescale,
    "RELU": tflite_layers.rescale,
    "RELU6": tflite_layers.rescale,
    "RELU_N1_TO_1": tflite_layers.rescale,
}
PADDABLE = ("CONV_2D", "DEPTHWISE_CONV_2D")
VIEWS = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")


def import_tflite(source: bytes, name: str) -> Graph:
    """The graph of an INT8 TFLite model.

    Raises ModelLoadError (no TFLite file, or open sizes) and UnsupportedModel (nothing in it is quantised).
    """
    with importing("TFLite"):
        return _Import(read_tflite(source)).graph(name)


class _Import:
    def __init__(self, model: Model) -> None:
        self._model = model
        self._builder = Builder()
        self._padded: dict[str, tuple[str, Pads]] = {}  # what PAD writes → its input and the padding
        self._made = {output: operator for operator in model.operators for output in operator.outputs}

    def graph(self, name: str) -> Graph:
        model = self._model
        if not any(model.tensors[out].quantised for each in model.operators for out in each.outputs):
            raise UnsupportedModel(refusal(model))
        for each in model.inputs:
            self._hold(model.tensors[each])
        for operator in model.operators:
            self._operator(operator)
        specs = [
            tuple(model.tensors[each].spec() for each in names) for names in (model.inputs, model.outputs)
        ]
        return self._builder.finish(name, *specs)

    def _hold(self, tensor: Tensor) -> None:
        if tensor.quantised:
            scale, zero_point = tensor.scales[0], int(tensor.zero_points[0])
            self._builder.hold(tensor.name, tensor.shape, scale, zero_point, tensor.dtype)

    def _operator(self, operator: Operator) -> None:
        try:
            if not (self._pad(operator) or self._host(operator)):
                self._layer(operator)
        except Unfit as why:
            self._foreign(operator, str(why))

    def _layer(self, operator: Operator) -> None:
        make = LAYERS.get(operator.kind)
        if make is None:
            raise Unfit("the overlay has no such operator")
        source, pads = self._padded.get(
            str(operator.inputs[0]), (str(operator.inputs[0]), tflite_layers.NO_PADS)
        )
        read = operator.inputs if operator.kind == "ADD" else (source,)
        for name in (*read, *operator.outputs):
            tensor = self._model.tensors[str(name)]
            if not tensor.quantised:
                raise Unfit(f"tensor {name!r} is {tensor.dtype}, not INT8 with one scale")
            if name not in self._builder.values and name not in operator.outputs:
                raise Unfit(f"tensor {name!r} is a constant")
        make(self._builder, tflite_layers.Call(self._model, operator, source, pads))

    def _pad(self, operator: Operator) -> bool:
        """Zeros around the pixels become the padding of the convolutions that read them."""
        if operator.kind != "PAD" or operator.outputs[0] in self._model.outputs:
            return False
        readers = [each for each in self._model.operators if operator.outputs[0] in each.inputs]
        pads = self._model.tensors[str(operator.inputs[1])].data
        if pads is None or pads.shape != (4, 2) or pads[[0, 3]].any():
            return False
        if operator.inputs[0] not in self._builder.values or any(
            each.kind not in PADDABLE for each in readers
        ):
            return False
        (top, bottom), (left, right) = pads[1:3].tolist()
        self._padded[operator.outputs[0]] = (operator.inputs[0], (top, left, bottom, right))
        return True

    def _host(self, operator: Operator) -> bool:
        """Whether it is an operator that numpy runs (or that is only another look at the same bytes)."""
        source, output = operator.inputs[0], self._model.tensors[operator.outputs[0]]
        before = self._model.tensors[source] if source is not None else None
        if source is None or before is None:
            return False
        step = host_step(operator, before, output)
        if step is None:
            return False
        if step.op in ("reshape", "transpose") and source in self._builder.values:
            order = self._builder.values[source].order
            order = (
                order.transpose(step.attributes["perm"])
                if step.op == "transpose"
                else order.reshape(output.shape)
            )
            self._builder.view(output.name, source, order, step)
            return True
        self._builder.on_host(source)
        self._builder.steps.append(step)
        self._hold(output)
        return True

    def _foreign(self, operator: Operator, why: str) -> None:
        """The operator, with those before it that no step stands for (PAD)."""
        nodes, inputs = [operator], list(operator.inputs)
        for each in inputs:
            if each in self._padded:
                nodes.insert(0, self._made[each])
                inputs += self._made[each].inputs
        read = [
            each
            for each in inputs
            if each and each not in self._padded and self._model.tensors[each].data is None
        ]
        for each in read:
            self._builder.on_host(each)
        names = tuple(each.node for each in nodes)
        reason = f"{operator.kind} {operator.node!r}: {why}"
        self._builder.steps.append(Foreign(tuple(dict.fromkeys(read)), operator.outputs, names, reason))
        for each in operator.outputs:
            self._hold(self._model.tensors[each])


def host_step(operator: Operator, before: Tensor, output: Tensor) -> Host | None:
    """The host operator that does what ``operator`` does; None when there is none."""
    made = (operator.inputs[0] or "",), (output.name,)
    node = (operator.node,)
    kind = operator.kind
    if kind in VIEWS:
        return Host("reshape", *made, {"shape": output.shape}, node)
    if kind == "QUANTIZE" and before.dtype == "FP32" and output.quantised:
        return Host(
            "quantize", *made, quantisation(output) | {"dtype": output.dtype, "reciprocal": True}, node
        )
    if kind == "DEQUANTIZE" and before.quantised and output.dtype == "FP32":
        return Host("dequantize", *made, quantisation(before), node)
    if kind == "SOFTMAX" and before.quantised and output.quantised:
        if (float(output.scales[0]), int(output.zero_points[0])) != (1 / 256, -128):
            return None
        attributes = {"scale": float(before.scales[0]), "beta": float(operator.options.beta)}
        return Host("softmax_int8", *made, attributes, node)
    return None


def quantisation(tensor: Tensor) -> dict[str, tuple[float, ...] | tuple[int, ...]]:
    return {
        "scale": tuple(np.asarray(tensor.scales, np.float64).tolist()),
        "zero_point": tuple(tensor.zero_points.tolist()),
    }


def refusal(model: Model) -> str:
    """What to say of a model in which nothing is quantised."""
    if not model.operators:
        raise ModelLoadError("the TFLite file has no operators; export the model again")
    first = next((each for each in model.operators if each.kind in LAYERS), model.operators[0])
    return (
        f"operator {first.kind} (which writes {first.node!r}) computes in "
        f"{model.tensors[first.outputs[0]].dtype}; the overlay runs INT8: convert the model with full integer "
        "quantisation (optimizations = [DEFAULT], a representative dataset, TFLITE_BUILTINS_INT8)"
    )
