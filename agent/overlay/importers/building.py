"""A graph under construction, for both importers: which bytes a tensor of the source is, and in which order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.errors import ModelLoadError, UnsupportedModel
from agent.overlay.graph import Foreign, Graph, Host, Layer, Step, Tensor
from agent.types import TensorSpec

Order = NDArray[np.int64]
MAX_ELEMENTS = 1 << 25
MAX_REASONS = 4000  # characters, of operators that stay on the CPU together


@contextmanager
def importing(kind: str) -> Iterator[None]:
    """Read a file of this ``kind`` (ONNX, TFLite): what trips over a malformed operator ends in ModelLoadError."""
    try:
        with np.errstate(all="ignore"):  # what comes of senseless scales is refused by value
            yield
    except (LookupError, ArithmeticError, AttributeError, TypeError, ValueError) as error:
        raise ModelLoadError(
            f"an operator of the {kind} file is malformed ({error}); export the model again"
        ) from error


class Unfit(Exception):
    """Why an operator of the source is no layer of the overlay; never leaves the importers."""


@dataclass(frozen=True, slots=True)
class Value:
    """A quantised tensor of the source: the bytes of ``base``, in another order when it is only a view of it.

    ``order`` has the value's shape; its elements are indices into ``base`` as the source holds it. ``zero_point`` is
    that of the int8 values. ``via`` makes a view of its source on the host, where a view will not do.
    """

    base: str
    order: Order
    scale: np.float32
    zero_point: int
    dtype: str
    via: Host | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.order.shape


@dataclass(frozen=True, slots=True)
class Output:
    """What a layer writes: a tensor of the source, its quantisation (of the int8 values) and the bounds."""

    name: str
    shape: tuple[int, ...]
    layout: str
    scale: np.float32
    zero_point: int
    dtype: str
    low: int
    high: int
    nodes: tuple[str, ...]


class Builder:
    """Collects steps in the order of the source."""

    def __init__(self) -> None:
        self.values: dict[str, Value] = {}
        self.tensors: dict[str, Tensor] = {}
        self.steps: list[Step] = []

    def hold(self, name: str, shape: Sequence[int], scale: Any, zero_point: int, dtype: str) -> None:
        """A quantised tensor that the host holds, or that a layer is about to write.

        Raises UnsupportedModel when it is too large for a device of this class.
        """
        if math.prod(shape) > MAX_ELEMENTS:
            raise UnsupportedModel(
                f"tensor {name!r} has {math.prod(shape)} elements, more than {MAX_ELEMENTS}; feed the model a smaller "
                "input"
            )
        order = np.arange(math.prod(shape), dtype=np.int64).reshape(tuple(shape))
        self.values[name] = Value(name, order, np.float32(scale), zero_point, dtype)

    def view(self, name: str, source: str, order: Order, via: Host) -> None:
        """``name`` is ``source`` in another order; ``order`` as in Value."""
        self.values[name] = replace(self.values[source], order=order, via=via)

    def requantise(self, name: str, scale: np.float32, zero_point: int) -> None:
        """What the bytes of ``name`` stand for, as its next reader says."""
        self.values[name] = replace(self.values[name], scale=scale, zero_point=zero_point)

    def read(self, name: str, planes: Order) -> str:
        """The tensor to read as int8 planes ``[C,H,W]``: ``planes`` are indices into the value's base.

        A value in another arrangement than its base is made on the host first.
        """
        value = self.values[name]
        if self._fits(value.base, planes):
            return value.base
        wanted = positions_of(value)[planes]
        self.on_host(name)
        if self._fits(name, wanted):
            return name
        copy = f"{name}:{'x'.join(map(str, planes.shape))}"
        if copy not in self.values:
            self.values[copy] = replace(self.values[name], base=copy)
            self.steps.append(Host("reshape", (name,), (copy,), {"shape": value.shape}, ()))
        if not self._fits(copy, wanted):
            raise Unfit(f"it reads {name!r} in an arrangement that a host operator cannot make")
        return copy

    def _fits(self, base: str, planes: Order) -> bool:
        """Whether ``base`` is arranged so; a base that no layer has touched yet can still be."""
        if base in self.tensors:
            return same(plane_order(self.tensors[base]), planes)
        value = self.values[base]
        channels, height, width = planes.shape
        for layout in ("nchw", "nhwc"):
            tensor = Tensor(base, channels, height, width, value.zero_point, value.dtype, value.shape, layout)
            if same(plane_order(tensor), planes):
                self.tensors[base] = tensor
                return True
        return False

    def write(self, output: Output, channels: int, height: int, width: int) -> None:
        """Declare what a layer writes."""
        self.hold(output.name, output.shape, output.scale, output.zero_point, output.dtype)
        self.tensors[output.name] = Tensor(
            output.name, channels, height, width, output.zero_point, output.dtype, output.shape, output.layout
        )

    def on_host(self, name: str) -> None:
        """Make sure that a step writes ``name`` itself rather than the tensor of which it is a view."""
        chain = []
        while (value := self.values.get(name)) is not None and value.base != name and value.via is not None:
            chain.append(name)
            name = value.via.inputs[0]
        for each in reversed(chain):
            value = self.values[each]
            assert value.via is not None
            self.steps.append(value.via)
            self.hold(each, value.shape, value.scale, value.zero_point, value.dtype)

    def layer(self, layer: Layer) -> None:
        self.steps.append(layer)

    def finish(self, name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Graph:
        """The graph, without steps that nothing reads; neighbouring foreign steps are one."""
        for spec in outputs:
            self.on_host(spec.name)
        steps = join_foreign(prune(self.steps, {spec.name for spec in outputs}), outputs)
        touched = {each for step in steps if not isinstance(step, Host | Foreign) for each in names_of(step)}
        tensors = {key: tensor for key, tensor in self.tensors.items() if key in touched}
        return Graph(name, tuple(inputs), tuple(outputs), tensors, tuple(steps))


def same(a: Order, b: Order) -> bool:
    return a.shape == b.shape and bool(np.array_equal(a, b))


def plane_order(tensor: Tensor) -> Order:
    """Where each element of the planes ``[C,H,W]`` lies in the tensor as the source holds it."""
    flat = np.arange(tensor.channels * tensor.height * tensor.width, dtype=np.int64)
    if tensor.layout == "nchw":
        return flat.reshape(tensor.channels, tensor.height, tensor.width)
    return flat.reshape(tensor.height, tensor.width, tensor.channels).transpose(2, 0, 1)


def positions_of(value: Value) -> Order:
    """Index into the flat value of each element of its base."""
    flat = value.order.reshape(-1)
    positions = np.empty_like(flat)
    positions[flat] = np.arange(flat.size)
    return positions


def inputs_of(step: Step) -> tuple[str, ...]:
    if isinstance(step, Host | Foreign):
        return step.inputs
    return (step.a, step.b) if hasattr(step, "b") else (step.input,)  # type: ignore[union-attr]


def outputs_of(step: Step) -> tuple[str, ...]:
    return step.outputs if isinstance(step, Host | Foreign) else (step.output,)


def names_of(step: Step) -> tuple[str, ...]:
    """Every tensor that a step reads or writes."""
    return inputs_of(step) + outputs_of(step)


def _reasons(before: str, why: str) -> str:
    """Both, each reason once; a program's file has room for so much."""
    text = "; ".join(dict.fromkeys((*before.split("; "), why)))
    return text if len(text) <= MAX_REASONS else before


def prune(steps: Sequence[Step], wanted: set[str]) -> list[Step]:
    """Steps without those that write nothing that is read later or in ``wanted``."""
    wanted, kept = set(wanted), []
    for step in reversed(steps):
        if wanted.intersection(outputs_of(step)):
            wanted.update(inputs_of(step))
            kept.append(step)
    return kept[::-1]


def join_foreign(steps: Sequence[Step], results: Sequence[TensorSpec]) -> list[Step]:
    """Neighbouring foreign steps as one, which writes only what others read."""
    joined: list[Step] = []
    for step in steps:
        last = joined[-1] if joined else None
        if isinstance(step, Foreign) and isinstance(last, Foreign):
            inputs = (*last.inputs, *(name for name in step.inputs if name not in last.outputs))
            joined[-1] = Foreign(
                tuple(dict.fromkeys(inputs)),
                last.outputs + step.outputs,
                tuple(dict.fromkeys(last.nodes + step.nodes)),
                _reasons(last.why, step.why),
            )
        else:
            joined.append(step)
    read = {spec.name for spec in results} | {name for step in joined for name in inputs_of(step)}
    return [
        replace(step, outputs=tuple(name for name in step.outputs if name in read))
        if isinstance(step, Foreign)
        else step
        for step in joined
    ]
