"""One form for the models of all formats, and what it adds up to."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from agent.errors import ModelLoadError
from agent.types import OverlayRef

# Roles of a node. STEP runs and moves bytes; the others give their input another form or finish it in place.
STEP, VIEW, ACTIVATION, QUANTIZE, DEQUANTIZE = range(5)


@dataclass(frozen=True, slots=True)
class Work:
    """One inference at batch 1.

    ``macs``: multiply-accumulates of convolutions and matrix products. ``nbytes``: weights, inputs and outputs of every
    operator, each once. ``precision``: fp32, fp16 or int8, that of most of the MACs; fp32 when there are none.

    An overlay program's: on its ``overlay`` a run takes ``overlay_s``, its CPU segments are the work ``beside`` it, and
    the CPU moves ``packed_bytes`` and ``unpacked_bytes`` to form its tensors as the overlay wants them and back. The
    rest is what a CPU does that runs the whole program, ``layers`` of it in numpy.
    """

    macs: int
    nbytes: int
    precision: str
    overlay: OverlayRef | None = None
    overlay_s: float = 0.0
    beside: Work | None = None
    layers: int = 0
    packed_bytes: int = 0
    unpacked_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Tensor:
    shape: tuple[int, ...]
    dtype: str  # as its format calls it: FLOAT, FLOAT32, INT8 ...

    def __post_init__(self) -> None:
        if any(size < 0 for size in self.shape):
            raise ModelLoadError(f"a tensor has the shape {list(self.shape)}")

    def nbytes(self) -> int:
        return -(-math.prod(self.shape) * _bits(self.dtype) // 8)


@dataclass(frozen=True, slots=True)
class Node:
    role: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    macs: int = 0
    operands: tuple[str, ...] = ()  # the inputs whose types tell the precision of the MACs


@dataclass(frozen=True, slots=True)
class Graph:
    nodes: tuple[Node, ...]
    tensors: dict[str, Tensor]
    inputs: frozenset[str]
    outputs: frozenset[str]


def total(graph: Graph) -> Work:
    if not graph.nodes:
        raise ModelLoadError("it holds no operators")
    forms = _forms(graph)
    macs: Counter[str] = Counter()
    nbytes = 0
    for node in graph.nodes:
        touched = {forms[name] for name in (*node.inputs, *node.outputs)}
        if node.role != STEP and len({forms[node.inputs[0]], forms[node.outputs[0]]}) == 1:
            continue
        nbytes += sum(graph.tensors[name].nbytes() for name in touched)
        macs[precision_of(graph.tensors[forms[name]].dtype for name in node.operands)] += node.macs
    precision = max(macs, key=lambda each: macs[each]) if macs.total() else "fp32"
    return Work(macs.total(), nbytes, precision)


def _forms(graph: Graph) -> dict[str, str]:
    """Tensor → the smallest tensor of the same content: the form in which it lies in memory."""
    readers = Counter(name for node in graph.nodes for name in node.inputs)
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while name in parent:
            name = parent[name]
        return name

    for node in graph.nodes:
        if node.role == STEP:
            continue
        source, target = node.inputs[0], node.outputs[0]
        inner = source not in graph.inputs | graph.outputs and readers[source] == 1
        if node.role == VIEW or (target not in graph.outputs if node.role == DEQUANTIZE else inner):
            left, right = sorted((root(source), root(target)), key=lambda name: graph.tensors[name].nbytes())
            if left != right:
                parent[right] = left
    return {name: root(name) for name in graph.tensors}


def _bits(dtype: str) -> int:
    named = {"FLOAT": 32, "DOUBLE": 64, "BOOL": 8}
    if dtype in named:
        return named[dtype]
    width = re.fullmatch(r"(?:U?INT|B?FLOAT)(\d+).*", dtype)  # FLOAT8E4M3FN too
    if width is None:
        raise ModelLoadError(f"tensors of type {dtype} have no fixed size")
    return int(width.group(1))


def precision_of(dtypes: Iterable[str]) -> str:
    found = set(dtypes)
    if found <= {"INT8", "UINT8", "INT4", "UINT4"}:
        return "int8"
    return "fp16" if found <= {"FLOAT16", "BFLOAT16"} else "fp32"
