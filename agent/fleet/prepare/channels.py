"""Which whole channels of a float ONNX model can go: who makes them, and who would have to do without.

A channel of a convolution or of a fully connected layer can go when everything that reads it, through operators that
keep channels apart, is another such layer. A sum ties the channels of its operands together: they all stay.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.fleet.prepare.onnx_checks import inner_nodes

APART = frozenset({
    "Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "MaxPool", "AveragePool",
    "GlobalAveragePool", "Identity",
})  # fmt: skip
LAYERS = ("Conv", "Gemm")


@dataclass(slots=True)
class Reader:
    """A layer that reads the channels. ``spread``: its inputs for each of them (a picture that was flattened)."""

    node: Any
    spread: int


@dataclass(slots=True)
class Group:
    """Channels that ``maker`` writes. ``between``: depthwise convolutions, ``shapes``: of Reshape to be rewritten."""

    maker: Any
    count: int
    between: list[Any] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)


class Net:
    """A float model whose constants can be changed. ``proto`` stays in step with ``constants`` by ``bytes``."""

    def __init__(self, model: bytes) -> None:
        import onnx
        from onnx import numpy_helper

        self._proto = onnx.load_model_from_string(model)
        self.graph = self._proto.graph
        self.constants: dict[str, NDArray[Any]] = {
            each.name: np.array(numpy_helper.to_array(each)) for each in self.graph.initializer
        }
        self.outputs = {each.name for each in self.graph.output}
        self._readers: dict[str, list[Any]] = {}
        for node in self.graph.node:
            for name in dict.fromkeys(read_by(node)):
                self._readers.setdefault(name, []).append(node)

    def layers(self) -> Iterator[Any]:
        """Convolutions and fully connected layers whose weights are constants of their own."""
        for node in self.graph.node:
            if node.op_type in LAYERS and len(node.input) > 1 and self._own(node):
                yield node

    def _own(self, node: Any) -> bool:
        constants = [name for name in node.input[1:3] if name]
        return all(name in self.constants and len(self._readers[name]) == 1 for name in constants)

    def groups(self) -> Iterator[Group]:
        """Channels that can go, in the order of the model."""
        for node in self.layers():
            if attribute(node, "group", 1) != 1:
                continue
            group = Group(node, self.constants[node.input[1]].shape[output_axis(node)])
            if self._follow(node.output[0], group, 1) and group.readers:
                yield group

    def _follow(self, name: str, group: Group, spread: int) -> bool:
        """Whether all readers of a tensor, and of what they make of it, can do without a channel."""
        readers = self._readers.get(name, [])
        return (
            bool(readers)
            and name not in self.outputs
            and all(self._can(each, group, spread) for each in readers)
        )

    def _can(self, node: Any, group: Group, spread: int) -> bool:
        if node.op_type in APART:
            return self._follow(node.output[0], group, spread)
        if node.op_type == "Flatten" and attribute(node, "axis", 1) == 1:
            return self._follow(node.output[0], group, 0)
        if node.op_type == "Reshape":
            return self._reshapes(node, group) and self._follow(node.output[0], group, 0)
        if node.op_type not in LAYERS or not self._own(node):
            return False
        inputs = self.constants[node.input[1]].shape[input_axis(node)]
        if node.op_type == "Conv" and spread == 1:
            if attribute(node, "group", 1) == 1:
                group.readers.append(Reader(node, 1))
                return True
            if attribute(node, "group", 1) == group.count == self.constants[node.input[1]].shape[0]:
                group.between.append(node)
                return self._follow(node.output[0], group, 1)
            return False
        if node.op_type == "Gemm" and not attribute(node, "transA", 0) and inputs % group.count == 0:
            group.readers.append(Reader(node, inputs // group.count))
            return True
        return False

    def _reshapes(self, node: Any, group: Group) -> bool:
        """To rows of all that a sample has, with a constant shape of its own."""
        name = node.input[1]
        shape = self.constants.get(name)
        if shape is None or shape.shape != (2,) or len(self._readers[name]) != 1:
            return False
        group.shapes.append(name)
        return int(shape[1]) == -1 or int(shape[1]) % group.count == 0

    def bytes(self) -> bytes:
        """The model with its constants as they are now."""
        from onnx import numpy_helper

        kept = [
            numpy_helper.from_array(np.asarray(array, order="C"), name)  # ascontiguousarray has no scalars
            for name, array in self.constants.items()
        ]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)
        del self.graph.value_info[:]
        return bytes(self._proto.SerializeToString())


def read_by(node: Any) -> Iterator[str]:
    """What a node reads, and what the nodes of its inner graphs read."""
    for each in (node, *inner_nodes(node)):
        yield from each.input


def attribute(node: Any, name: str, default: int) -> int:
    return next((int(each.i) for each in node.attribute if each.name == name), default)


def output_axis(node: Any) -> int:
    """Of a layer's weights."""
    return 0 if node.op_type == "Conv" or attribute(node, "transB", 0) else 1


def input_axis(node: Any) -> int:
    """Of a layer's weights."""
    return 1 - output_axis(node)


def remove(net: Net, group: Group, gone: NDArray[np.int64], means: dict[str, NDArray[np.float32]]) -> None:
    """Take channels out. What they gave on average (``means`` of the readers' inputs, an element for each) goes into
    the readers' biases."""
    if not gone.size:
        return
    for reader in group.readers:
        _without(net, reader, gone, means)
    for node in (group.maker, *group.between):
        axis = output_axis(node)
        for name, along in zip(node.input[1:3], (axis, -1), strict=False):
            if name:
                net.constants[name] = np.delete(net.constants[name], gone, along)
    left = group.count - len(gone)
    for node in group.between:
        next(each for each in node.attribute if each.name == "group").i = left
    for name in group.shapes:
        shape = net.constants[name]
        if shape[1] != -1:
            net.constants[name] = np.array([shape[0], int(shape[1]) // group.count * left], np.int64)


def _without(
    net: Net, reader: Reader, gone: NDArray[np.int64], means: dict[str, NDArray[np.float32]]
) -> None:
    node, axis = reader.node, input_axis(reader.node)
    rows = (gone[:, None] * reader.spread + np.arange(reader.spread)).reshape(-1)
    weights = net.constants[node.input[1]]
    lost = np.take(weights, rows, axis)
    lost = np.moveaxis(lost, axis, 0).reshape(len(rows), weights.shape[1 - axis], -1).sum(axis=2)
    added = means[node.input[0]][rows] @ lost
    if len(node.input) > 2 and node.input[2]:
        name = node.input[2]
        net.constants[name] = (net.constants[name] + added).astype(np.float32)
    else:
        name = f"{node.name}.pruned_bias"
        net.constants[name] = added.astype(np.float32)
        node.input[:] = [*node.input[:2], name]
    net.constants[node.input[1]] = np.delete(weights, rows, axis)


def size_of(net: Net) -> int:
    """Numbers in the weights of all layers that are not zero."""
    return sum(int(np.count_nonzero(net.constants[node.input[1]])) for node in net.layers())


def rounded(count: int, share: float, step: int) -> int:
    """How many of ``count`` channels stay: whole blocks of ``step``, which runtimes and overlays compute at once."""
    left = math.ceil(count * (1 - share) / step) * step
    return min(count, max(left, 1))
