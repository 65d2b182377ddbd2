"""Which execution provider ran each node of an ONNX model, and whether that is what was asked for.

ONNX Runtime gives a node that a provider does not take to the CPU and says nothing. Here that is an error, but for the
arithmetic on shapes, which every provider leaves on the CPU on purpose: its results steer what the GPU does.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.devices.building import one_text
from agent.errors import DeviceMismatch

CPU = "CPUExecutionProvider"
SHAPE_OPERATORS = frozenset({"Shape", "Size"})  # they read a tensor's shape, never its values
SMALL = 64  # elements
INTEGERS = frozenset({"bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"})
MAX_PROFILE_BYTES = 256 << 20
MOST_NAMES = 5
MOST_CHARACTERS = 80  # of each


@dataclass(frozen=True, slots=True)
class Tensor:
    """A node's input or output: ONNX Runtime's name of the element type, and how many elements."""

    dtype: str
    elements: int

    @property
    def small(self) -> bool:
        """Integers or booleans, so few that they are sizes, positions or conditions."""
        return self.dtype in INTEGERS and self.elements <= SMALL


@dataclass(frozen=True, slots=True)
class Node:
    """``inputs``, ``outputs``: None where only the assignment is known, not the tensors."""

    provider: str
    operator: str
    name: str
    inputs: tuple[Tensor, ...] | None = None
    outputs: tuple[Tensor, ...] | None = None


def recorded(session: Any) -> tuple[Node, ...]:
    """Of a session made with ``session.record_ep_graph_assignment_info``; empty before ONNX Runtime 1.24."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return ()
    return tuple(
        Node(str(part.ep_name), str(node.op_type), str(node.name))
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    )


def read_profile(path: Path) -> tuple[Node, ...]:
    """The nodes that ran in a profiled session. Format: the Chrome trace that ONNX Runtime writes.

    Raises ValueError for a file that is none, or larger than 256 MiB.
    """
    if path.stat().st_size > MAX_PROFILE_BYTES:
        raise ValueError(f"the profile is larger than {MAX_PROFILE_BYTES >> 20} MiB")
    events = json.loads(path.read_bytes())
    if not isinstance(events, list):
        raise ValueError("the profile is no list of events")
    nodes = (_node(event) for event in events if isinstance(event, dict))
    return tuple(dict.fromkeys(node for node in nodes if node is not None))


def _node(event: dict[str, Any]) -> Node | None:
    name, args = str(event.get("name", "")), event.get("args")
    if event.get("cat") != "Node" or not name.endswith("_kernel_time") or not isinstance(args, dict):
        return None
    return Node(
        str(args.get("provider", "")),
        str(args.get("op_name", "")),
        name.removesuffix("_kernel_time"),
        _tensors(args.get("input_type_shape")),
        _tensors(args.get("output_type_shape")),
    )


def _tensors(described: Any) -> tuple[Tensor, ...] | None:
    """From a list like [{"float": [1, 10]}, {"int64": []}]."""
    if not isinstance(described, list):
        return None
    return tuple(
        Tensor(str(dtype), math.prod(shape))
        for entry in described
        if isinstance(entry, dict)
        for dtype, shape in entry.items()
        if isinstance(shape, list)
    )


def computes_shapes(node: Node) -> bool:
    """Whether a node only computes sizes, positions or conditions for others."""
    if node.operator in SHAPE_OPERATORS:
        return True
    if not node.outputs or node.inputs is None:
        return False
    return all(tensor.small for tensor in (*node.outputs, *node.inputs))


def on_cpu(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The nodes on the CPU that do more than compute shapes, as far as is known."""
    return tuple(node for node in nodes if node.provider == CPU and not computes_shapes(node))


def check(nodes: Sequence[Node], ep: str, same_gpu: Sequence[str] = ()) -> None:
    """DeviceMismatch, with the operators named, unless ``ep`` (with ``same_gpu``'s help) runs the whole model."""
    strangers = [node for node in nodes if node.provider not in (ep, *same_gpu) and not computes_shapes(node)]
    if strangers:
        raise DeviceMismatch(
            f"{ep} leaves {describe(strangers)} to {_providers(strangers)}; "
            "place the model on the cpu, or pack a variant without these operators (its FP32 form, or another opset)"
        )
    if not any(node.provider == ep for node in nodes):
        raise DeviceMismatch(
            f"{ep} took no node of the model ({_providers(nodes) or 'none'} did); place the model on the cpu"
        )


def describe(nodes: Sequence[Node]) -> str:
    """Operators with their counts and some names: "QuantizeLinear x 3, Conv (a, b, c, d)"."""
    counts = Counter(_printable(node.operator) for node in nodes).most_common()
    operators = ", ".join(
        f"{operator} x {count}" if count > 1 else operator for operator, count in counts[:8]
    )
    more = f" and {len(counts) - 8} other operators" if len(counts) > 8 else ""
    names = [_printable(node.name) for node in nodes if node.name]
    shown = ", ".join(names[:MOST_NAMES]) + (", ..." if len(names) > MOST_NAMES else "")
    return f"{operators}{more} ({shown})" if shown else f"{operators}{more}"


def _printable(name: str) -> str:
    """Whoever made the model chose it."""
    return one_text(name[:1000], MOST_CHARACTERS)


def _providers(nodes: Sequence[Node]) -> str:
    return " and ".join(sorted({node.provider for node in nodes}))
