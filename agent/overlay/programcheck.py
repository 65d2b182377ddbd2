"""Whether a program that comes from outside can be run: its tensors, its regions and every descriptor."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from agent.overlay.descriptor import decode
from agent.overlay.graph import Add, Conv, Foreign, Host, Layer, Pool, Tensor
from agent.overlay.program import Binding, Part, Program, ProgramStep, Segment
from agent.overlay.programheader import MAX_ELEMENTS
from agent.overlay.spec import DESCRIPTOR_BYTES, Overlay, load_spec

BY_LANES = {
    16: "npu",
    8: "npu-small",
}  # whose descriptors say what fields mean where the overlay itself is not here
PIXEL_BYTES = 4
MOST_DESCRIPTORS = 65536


def check_program(program: Program, spec: Overlay | None) -> None:
    """ValueError for the first thing that is wrong. ``spec``: of the overlay, for the sizes of its memories."""
    known = {each.name for each in program.inputs}
    for step in program.steps:
        inputs, outputs = _flow(step)
        missing = sorted(set(inputs) - known)
        if missing:
            raise ValueError(f"tensor {missing[0]!r} is read before a step writes it")
        known.update(outputs)
        if isinstance(step, Segment):
            _check_segment(step, program, spec)
    missing = sorted({each.name for each in program.outputs} - known)
    if missing:
        raise ValueError(f"no step writes output {missing[0]!r}")


def _flow(step: ProgramStep) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if isinstance(step, Segment):
        return tuple(b.tensor.name for b in step.inputs), tuple(b.tensor.name for b in step.outputs)
    each: Host | Foreign = step.foreign if isinstance(step, Part) else step
    return each.inputs, each.outputs


def _check_segment(segment: Segment, program: Program, spec: Overlay | None) -> None:
    layout = spec or load_spec(BY_LANES[program.lanes])
    for bindings, nbytes in ((segment.inputs, segment.input_bytes), (segment.outputs, segment.output_bytes)):
        for binding in bindings:
            _check_binding(binding, nbytes, program.lanes)
    if any(binding.stack for binding in segment.outputs):
        raise ValueError("an output is packed")
    if len(segment.counts) != len(segment.layers) or not all(segment.counts):
        raise ValueError(f"{len(segment.counts)} counts of descriptors for {len(segment.layers)} layers")
    _check_layers(segment, program.tensors)
    computes = sum(_check_chain(segment, segment.chain, layout, spec))
    if computes != sum(segment.counts):
        raise ValueError(f"the chain has {computes} compute descriptors, the layers {sum(segment.counts)}")
    if segment.resident is not None:
        sum(_check_chain(segment, segment.resident, layout, spec))


def _check_binding(binding: Binding, nbytes: int, lanes: int) -> None:
    tensor = binding.tensor
    if binding.stack:
        fits = binding.stack * tensor.channels <= PIXEL_BYTES
        size = binding.rows * binding.columns * PIXEL_BYTES
    else:
        fits = True
        size = -(-tensor.channels // lanes) * tensor.height * tensor.width * lanes
    if not fits or size != binding.nbytes or not size or binding.offset + size > nbytes:
        raise ValueError(f"tensor {tensor.name!r} does not fit where its region has it")


def _check_layers(segment: Segment, tensors: dict[str, Tensor]) -> None:
    known = {binding.tensor.name for binding in segment.inputs}
    for layer in segment.layers:
        for name in (layer.a, layer.b) if isinstance(layer, Add) else (layer.input,):
            if name not in known:
                raise ValueError(f"layer {layer.name} reads {name!r} before it is written")
        if layer.output not in tensors:
            raise ValueError(f"layer {layer.name} writes {layer.output!r}, which is no tensor")
        if isinstance(layer, Conv):
            _check_conv(layer, tensors)
        _check_planes(layer, tensors)
        if layer.output in known:
            raise ValueError(f"layer {layer.name} writes {layer.output!r}, which is written before")
        known.add(layer.output)
    unknown = sorted({binding.tensor.name for binding in segment.outputs} - known)
    if unknown:
        raise ValueError(f"no layer writes {unknown[0]!r}")


def _check_conv(layer: Conv, tensors: dict[str, Tensor]) -> None:
    out, into = tensors[layer.output].channels, tensors[layer.input].channels
    if layer.weights.shape[:2] != (out, 1 if layer.depthwise else into) or (layer.depthwise and out != into):
        raise ValueError(f"layer {layer.name}: its weights are not for {into} channels to {out}")
    if not np.isfinite(layer.scale).all():
        raise ValueError(f"layer {layer.name}: a scale is not finite")


def _check_planes(layer: Layer, tensors: dict[str, Tensor]) -> None:
    """The output's planes are as large as the layer makes them."""
    output = tensors[layer.output]
    size = (output.height, output.width)
    if isinstance(layer, Add):
        made = {(a.height, a.width) for a in (tensors[layer.a], tensors[layer.b])}
        channels = {tensors[layer.a].channels, tensors[layer.b].channels}
    else:
        source = tensors[layer.input]
        made = {_windows(layer, source)}
        channels = {output.channels if isinstance(layer, Conv) else source.channels}
    if made != {size} or channels != {output.channels}:
        raise ValueError(f"layer {layer.name}: its output {layer.output!r} has another size than it makes")


def _windows(layer: Conv | Pool, source: Tensor) -> tuple[int, int]:
    """How many windows, down and across, the padded input has."""
    kernel, dilation = (
        (layer.weights.shape[2:], layer.dilation) if isinstance(layer, Conv) else (layer.kernel, (1, 1))
    )
    top, left, bottom, right = layer.pads
    height, width = source.height + top + bottom, source.width + left + right
    if source.channels * height * width > MAX_ELEMENTS:
        raise ValueError(f"layer {layer.name}: its padded input has more than {MAX_ELEMENTS} elements")
    rows, columns = (
        (length - step * (taps - 1) - 1) // jump + 1
        for length, step, taps, jump in zip((height, width), dilation, kernel, layer.stride, strict=True)
    )
    return rows, columns


def _check_chain(segment: Segment, start: int, layout: Overlay, spec: Overlay | None) -> Iterator[bool]:
    """For each descriptor up to END: whether it computes."""
    if start % DESCRIPTOR_BYTES:
        raise ValueError(f"a chain begins at byte {start}, no multiple of {DESCRIPTOR_BYTES}")
    sizes = (len(segment.data), segment.input_bytes, segment.output_bytes, segment.scratch_bytes)
    codes = {code: name for name, code in layout.opcodes.items()}
    for number in range(MOST_DESCRIPTORS + 1):
        at = start + number * DESCRIPTOR_BYTES
        if at + DESCRIPTOR_BYTES > len(segment.data):
            raise ValueError(f"the chain at byte {start} leaves the program's data")
        fields = decode(layout, segment.data[at : at + DESCRIPTOR_BYTES])
        name = codes.get(fields["opcode"])
        if name is None:
            raise ValueError(f"descriptor {number} has the unknown opcode {fields['opcode']}")
        if name == "END":
            return
        if name in ("LOAD", "STORE"):
            _check_transfer(number, fields, name, sizes, layout, spec)
        if name == "ADD" and not 16 <= fields["shift"] <= 24:
            raise ValueError(f"descriptor {number} (ADD) shifts by {fields['shift']} bits, not 16 to 24")
        yield name not in ("LOAD", "STORE")
    raise ValueError(f"the chain at byte {start} has more than {MOST_DESCRIPTORS} descriptors")


def _check_transfer(
    number: int,
    fields: dict[str, int],
    name: str,
    sizes: tuple[int, ...],
    layout: Overlay,
    spec: Overlay | None,
) -> None:
    runs, words = fields["runs"], fields["words"]
    end = fields["offset"] + (runs - 1) * fields["region_step"] + words * layout.lanes
    if (
        not runs
        or not words
        or fields["offset"] % 8
        or fields["region_step"] % 8
        or end > sizes[fields["region"]]
    ):
        raise ValueError(f"descriptor {number} ({name}) leaves region {fields['region']}")
    if name == "STORE" and fields["region"] < 2:
        raise ValueError(
            f"descriptor {number} (STORE) writes into region {fields['region']}, which is read only"
        )
    if spec is not None:
        weights = name == "LOAD" and fields["flags"] & spec.flags["WEIGHTS"]
        size = 2 * spec.memory.weight_rows if weights else spec.memory.activation_words
        if fields["chip"] + (runs - 1) * fields["chip_step"] + words > size:
            raise ValueError(f"descriptor {number} ({name}) leaves the memory on the chip")
