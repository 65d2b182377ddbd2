"""What a program costs: cycles of the model (agent.overlay.cycles), bytes and utilisation, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent.errors import ProgramError
from agent.overlay.cycles import ComputeTimes, Fields, chain_cycles
from agent.overlay.descriptor import decode
from agent.overlay.graph import Add, Conv, Host, Layer, Pool, Tensor
from agent.overlay.program import Part, Program, Segment
from agent.overlay.spec import DESCRIPTOR_BYTES, Overlay
from agent.overlay.traffic import layer_bytes


@dataclass(frozen=True, slots=True)
class LayerReport:
    """``shape``: of the output. ``cycles``: from the end of the layer before it to its own; of those ``issue`` in which
    the array was fed and the others that it waited, for what ``bound`` names when that is most of them.

    ``utilisation``: MACs by cycles x those that the array can do; None where there are none. ``read``, ``written``:
    bytes of DDR, weights among them.
    """

    name: str
    kind: str
    shape: tuple[int, int, int]
    macs: int
    cycles: int
    utilisation: float | None
    issue: int
    wait: int
    drain: int
    weights: int
    read: int
    written: int
    bound: str


@dataclass(frozen=True, slots=True)
class SegmentReport:
    """Layers that run in one go. ``resident_bytes``: weights that stay on the chip; ``scratch_bytes``: of DDR."""

    layers: tuple[LayerReport, ...]
    cycles: int
    macs: int
    utilisation: float
    descriptors: int
    weight_bytes: int
    resident_bytes: int
    scratch_bytes: int


@dataclass(frozen=True, slots=True)
class Aside:
    """What does not run on the overlay, and why: an operator that numpy runs, or a CPU segment."""

    where: str
    operators: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Report:
    """``milliseconds``: of all segments, at the clock of the overlay's release."""

    name: str
    overlay: str
    version: int
    clock_hz: int
    cycles: int
    milliseconds: float
    macs: int
    utilisation: float
    segments: tuple[SegmentReport, ...]
    asides: tuple[Aside, ...]


def make_report(program: Program, spec: Overlay) -> Report:
    """The report of a program that was made for ``spec``."""
    segments = tuple(_segment(step, program, spec) for step in program.steps if isinstance(step, Segment))
    cycles = sum(segment.cycles for segment in segments)
    return Report(
        program.name, program.overlay, program.version, spec.clock.hz, cycles, 1e3 * cycles / spec.clock.hz,
        program.macs, utilisation(spec, program.macs, cycles), segments, tuple(_asides(program)),
    )  # fmt: skip


def utilisation(spec: Overlay, macs: int, cycles: int) -> float:
    """The share of the array's multiply-accumulates that were of use."""
    return macs / (spec.array.macs * cycles)


def read_fields(spec: Overlay, segment: Segment, start: int) -> list[Fields]:
    """The descriptors of a chain, END left out."""
    found: list[Fields] = []
    for at in range(start, len(segment.data), DESCRIPTOR_BYTES):
        fields = decode(spec, segment.data[at : at + DESCRIPTOR_BYTES])
        if fields["opcode"] == spec.opcodes["END"]:
            break
        found.append(fields)
    return found


def macs_of(layer: Layer) -> int:
    """Multiply-accumulates of a layer, padding of channels not counted."""
    return layer.macs if isinstance(layer, Conv) else 0


def _segment(segment: Segment, program: Program, spec: Overlay) -> SegmentReport:
    try:
        timed = chain_cycles(spec, segment.data[segment.chain :])
    except ValueError as error:
        raise ProgramError(f"the overlay program is corrupt: {error}; compile the model again") from error
    chain = read_fields(spec, segment, segment.chain)
    moved = layer_bytes(spec, segment, chain)
    layers = []
    first = before = 0
    for layer, count, (read, written) in zip(segment.layers, segment.counts, moved, strict=True):
        its = timed.computes[first : first + count]
        first += count
        cycles = its[-1].end - before
        before = its[-1].end
        layers.append(_layer(layer, program.tensors[layer.output], its, cycles, read, written, spec))
    macs = sum(map(macs_of, segment.layers))
    resident = 0
    if segment.resident is not None:
        resident = sum(_weights(spec, read_fields(spec, segment, segment.resident)).values())
    streamed = sum(_weights(spec, chain).values())
    return SegmentReport(
        tuple(layers), timed.total, macs, utilisation(spec, macs, timed.total), len(chain),
        resident + streamed, resident, segment.scratch_bytes,
    )  # fmt: skip


def _weights(spec: Overlay, chain: Sequence[Fields]) -> dict[int, int]:
    """Bytes of each piece of weights that a chain loads, by where it lies; some are loaded again and again."""
    load, flag = spec.opcodes["LOAD"], spec.flags["WEIGHTS"]
    its = (each for each in chain if each["opcode"] == load and each["flags"] & flag)
    return {each["offset"]: each["words"] * spec.lanes for each in its}


def _layer(
    layer: Layer,
    output: Tensor,
    times: tuple[ComputeTimes, ...],
    cycles: int,
    read: int,
    written: int,
    spec: Overlay,
) -> LayerReport:
    macs = macs_of(layer)
    shares = {
        "compute": sum(each.issue for each in times),
        "DMA": sum(each.wait for each in times),
        "pipeline": sum(each.drain for each in times),
        "weights": sum(each.weights for each in times),
    }
    return LayerReport(
        layer.name, kind_of(layer), (output.channels, output.height, output.width), macs, cycles,
        utilisation(spec, macs, cycles) if macs else None,
        shares["compute"], shares["DMA"], shares["pipeline"], shares["weights"], read, written,
        max(shares, key=lambda share: shares[share]),
    )  # fmt: skip


def kind_of(layer: Layer) -> str:
    """What a layer is, in words."""
    if isinstance(layer, Add):
        return "add"
    if isinstance(layer, Pool):
        return f"{'max' if layer.maximum else 'average'} pool {layer.kernel[0]}x{layer.kernel[1]}"
    kernel = f"{layer.weights.shape[2]}x{layer.weights.shape[3]}"
    if layer.depthwise:
        return f"depthwise {kernel}"
    return f"conv {kernel}"


def _asides(program: Program) -> Iterator[Aside]:
    for step in program.steps:
        if isinstance(step, Host):
            yield Aside("host", (step.op, *step.nodes), "an operator that runs beside the overlay, in numpy")
        elif isinstance(step, Part):
            yield Aside("cpu", step.foreign.nodes, step.foreign.why)
