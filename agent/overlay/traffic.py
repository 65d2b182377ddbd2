"""Which layer each transfer of a chain serves, and what a layer's descriptors touch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agent.overlay.cycles import Fields
from agent.overlay.lower.views import Range
from agent.overlay.program import Segment
from agent.overlay.spec import Overlay


def layer_bytes(spec: Overlay, segment: Segment, chain: Sequence[Fields]) -> list[tuple[int, int]]:
    """Bytes loaded for each layer (weights among them) and stored of its output, in an inference.

    A LOAD serves the next compute descriptor that reads what it writes, a STORE the last one that wrote what it reads.
    """
    codes = {code: name for name, code in spec.opcodes.items()}
    names = [codes[fields["opcode"]] for fields in chain]
    layers = iter(np.repeat(np.arange(len(segment.counts)), segment.counts).tolist())
    computes = [
        (at, next(layers), _Touched(spec, fields))
        for at, (name, fields) in enumerate(zip(names, chain, strict=True))
        if name not in ("LOAD", "STORE")
    ]
    moved = [[0, 0] for _ in segment.layers]
    passed = 0  # compute descriptors before
    for name, fields in zip(names, chain, strict=True):
        if name == "LOAD":
            weights = bool(fields["flags"] & spec.flags["WEIGHTS"])
            span = _span(fields, 2 if weights else 1)
            its = (
                layer
                for _, layer, touched in computes[passed:]
                if _meet(span, touched.weights if weights else touched.read)
            )
            moved[next(its, len(moved) - 1)][0] += _nbytes(spec, fields)
        elif name == "STORE":
            span = _span(fields, 1)
            its = (layer for _, layer, touched in reversed(computes[:passed]) if _meet(span, touched.written))
            moved[next(its, 0)][1] += _nbytes(spec, fields)
        else:
            passed += 1
    return [(read, written) for read, written in moved]


def _nbytes(spec: Overlay, fields: Fields) -> int:
    return fields["runs"] * fields["words"] * spec.lanes


def _span(fields: Fields, unit: int) -> Range:
    """First and one past the last word (or row of two words) on the chip."""
    end = fields["chip"] + (fields["runs"] - 1) * fields["chip_step"] + fields["words"]
    return fields["chip"] // unit, -(-end // unit)


def _meet(one: Range, other: Range) -> bool:
    return one[0] < other[1] and other[0] < one[1]


class _Touched:
    """Ranges of words that a compute descriptor reads and writes, and of weight rows."""

    def __init__(self, spec: Overlay, fields: Fields) -> None:
        opcodes, flags = spec.opcodes, spec.flags
        blocks = fields["count_a"]
        code = fields["opcode"]
        rows = {
            opcodes["CONV"]: spec.parameter_rows + spec.pass_rows * _passes(fields),
            opcodes["DEPTHWISE"]: spec.parameter_rows + spec.depthwise_rows,
        }
        count = rows[code] * blocks if code in rows else spec.parameter_rows * (code == opcodes["POOL"])
        self.weights = (fields["weight_row"], fields["weight_row"] + count)
        packed = bool(fields["flags"] & flags["PACKED"])
        low, high = _reach(fields, code == opcodes["ADD"])
        unit = spec.lanes // 4 if packed else 1
        self.read = (low // unit, high // unit + 1 + packed)
        first = fields["out_base"]
        words = _outputs(spec, fields) * (not fields["flags"] & flags["PARTIAL"])
        self.written = (first, first + (blocks - 1) * fields["out_step"] + words)


def _passes(fields: Fields) -> int:
    return fields["count_b"] * fields["count_c"] * fields["count_d"]


def _outputs(spec: Overlay, fields: Fields) -> int:
    """Words of a block."""
    code = fields["opcode"]
    if code == spec.opcodes["CONV"]:
        return fields["count_e"] * fields["count_f"]
    if code == spec.opcodes["DEPTHWISE"]:
        sizes = ((fields["count_e"], fields["stride_y"]), (fields["count_f"], fields["stride_x"]))
        return int(np.prod([(count - 3) // stride + 1 for count, stride in sizes]))
    return fields["count_e"] if code == spec.opcodes["ADD"] else fields["count_b"] * fields["count_c"]


def _reach(fields: Fields, everywhere: bool) -> Range:
    """The lowest and the highest address that is read, those in the padding left out."""
    low = high = fields["in_base"]
    for axis, outer, inner, start in (("y", "b", "e", "y0"), ("x", "c", "f", "x0")):
        i, j = np.ogrid[: fields[f"count_{outer}"], : fields[f"count_{inner}"]]
        at = i * fields[f"step_{outer}"] + j * fields[f"step_{inner}"]
        if not everywhere:
            where = fields[start] + i * fields[f"{axis}_{outer}"] + j * fields[f"{axis}_{inner}"]
            inside = at[(where >= 0) & (where < fields["in_h" if axis == "y" else "in_w"])]
            at = inside if inside.size else at
        low, high = low + int(at.min()), high + int(at.max())
    for loop in "ad":
        step = (fields[f"count_{loop}"] - 1) * fields[f"step_{loop}"]
        low, high = low + min(step, 0), high + max(step, 0)
    return low, high
