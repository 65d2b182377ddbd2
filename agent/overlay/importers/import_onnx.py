"""Quantised ONNX models (QDQ or QLinear operators) as graphs of the overlay."""

from __future__ import annotations

from agent.errors import UnsupportedModel
from agent.overlay.graph import Foreign, Graph, Host
from agent.overlay.importers import onnx_host, onnx_layers
from agent.overlay.importers.building import Builder, Unfit, importing
from agent.overlay.importers.onnx_match import BYTES, PLAIN, Operation, qlinear
from agent.overlay.importers.onnx_model import Model, Node, read_onnx
from agent.overlay.importers.onnx_qdq import between


def import_onnx(source: bytes, name: str) -> Graph:
    """The graph of a quantised ONNX model.

    Raises ModelLoadError (no ONNX file, or open sizes other than the batch) and UnsupportedModel (nothing in it is
    quantised).
    """
    with importing("ONNX"):
        return _Import(read_onnx(source)).graph(name)


class _Import:
    def __init__(self, model: Model) -> None:
        self._model = model
        self._builder = Builder()
        self._held = {spec.name for spec in model.inputs}  # what inputs and steps give, bytes or not

    def graph(self, name: str) -> Graph:
        model = self._model
        if not any(model.dtype(name) in BYTES for node in model.nodes for name in _computed(model, node)):
            raise UnsupportedModel(refusal(model))
        for spec in model.inputs:
            self._hold(spec.name)
        last, inner = self._operations()
        for node in model.nodes:
            if node.outputs[0] in last:
                self._operation(node, last[node.outputs[0]])
            elif node.outputs[0] not in inner and node.outputs[0] not in model.constants:
                self._other(node)
        return self._builder.finish(name, model.inputs, model.outputs)

    def _hold(self, name: str) -> None:
        self._held.add(name)
        dtype = self._model.dtype(name)
        if dtype in BYTES:
            self._builder.hold(name, self._model.shape(name), 1, 0, dtype)

    def _operations(self) -> tuple[dict[str, Operation], set[str]]:
        """By the first output of their last node; and the first outputs of the nodes that vanish into them."""
        last: dict[str, Operation] = {}
        for node in self._model.nodes:
            if node.outputs[0] in self._model.constants:
                continue
            made = between(self._model, node) if node.op == "QuantizeLinear" else qlinear(self._model, node)
            if made is not None:
                last[node.outputs[0]] = made
        return last, {each.outputs[0] for made in last.values() for each in made.nodes[:-1]}

    def _operation(self, node: Node, operation: Operation) -> None:
        try:
            onnx_layers.make(self._builder, self._model, operation)
            self._held.update(each for each in node.outputs if each)
        except Unfit as why:
            if not self._host(node):
                self._foreign(node, operation.node, str(why))

    def _other(self, node: Node) -> None:
        """A node that is no quantised operation, nor part of one."""
        if node.op == "DequantizeLinear" and not self._wanted_real(node.outputs[0]):
            return  # its readers take the bytes
        if not self._host(node):
            self._foreign(node, node, "the overlay has no such operator, or no quantised form of it here")

    def _wanted_real(self, name: str) -> bool:
        """Whether numbers that are no bytes are to be had under this name: host operators and outputs want them."""
        readers = self._model.readers.get(name, ())
        outputs = {spec.name for spec in self._model.outputs}
        return name in outputs or any(each.op in onnx_host.OPERATORS for each in readers)

    def _host(self, node: Node) -> bool:
        """Whether numpy runs it, on what is there."""
        if node.inputs[0] not in self._held:
            return False
        step = onnx_host.host_step(self._model, node)
        if step is None:
            return False
        self._append(step)
        return True

    def _foreign(self, node: Node, core: Node, why: str) -> None:
        """The node, with those before it that no step stands for."""
        nodes, inputs, waiting = [node], [], list(node.inputs)
        while waiting:
            name = waiting.pop()
            made = self._model.made.get(name)
            if not name or name in self._model.constants:
                continue
            if name in self._held and not (made is not None and made.op == "DequantizeLinear"):
                inputs.append(name)
            elif made is not None and made not in nodes:
                nodes.append(made)
                waiting += made.inputs
        nodes.sort(key=self._model.nodes.index)
        reason = f"{core.op} {core.label!r}: {why}"
        outputs = tuple(each for each in node.outputs if each)
        labels = tuple(each.label for each in nodes)
        self._append(Foreign(tuple(dict.fromkeys(inputs)), outputs, labels, reason))

    def _append(self, step: Host | Foreign) -> None:
        for each in step.inputs:
            self._builder.on_host(each)
        self._builder.steps.append(step)
        for each in step.outputs:
            self._hold(each)


def _computed(model: Model, node: Node) -> list[str]:
    """What a node writes, and what DequantizeLinear reads, constants left out."""
    names = (*node.outputs, *(node.inputs[:1] if node.op == "DequantizeLinear" else ()))
    return [name for name in names if name not in model.constants]


def refusal(model: Model) -> str:
    """What to say of a model in which nothing is quantised."""
    known = {"Conv", "Gemm", "MatMul"} | PLAIN
    first = next((each for each in model.nodes if each.op in known), model.nodes[0])
    return (
        f"operator {first.op} (node {first.label!r}) computes in {model.dtype(first.outputs[0]) or 'another type'}; "
        "the overlay runs INT8: quantise the model, e.g. with onnxruntime.quantization.quantize_static "
        "(QuantFormat.QDQ, INT8 or UINT8 activations and weights)"
    )
