"""Plans: where values lie, how they are tiled, and that a planned program gives the golden model's bytes."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import UnsupportedModel
from agent.overlay.compiler import compile_graph
from agent.overlay.driver import Driver
from agent.overlay.functional import from_planes, run_layers
from agent.overlay.graph import Conv, Graph
from agent.overlay.lower.build import Work, build
from agent.overlay.lower.homes import find_homes
from agent.overlay.lower.memory import Buffer, place
from agent.overlay.lower.views import Unplaceable, Window, split_evenly
from agent.overlay.program import Program
from agent.overlay.spec import Overlay
from agent.types import TensorSpec
from simulator.overlay.functional import FunctionalTransport
from simulator.overlay.machine import COMPUTE, LOAD, STORE, Machine
from simulator.overlay.memory import Memory
from tests.bench.mobilenet import mobilenet_graph
from tests.rtl.layers import Sample
from tests.unit.overlay.handmade import conv, tensor
from tests.unit.overlay.plans import NPU, SMALL, net, only, tiny

OVERLAYS = (
    tiny(NPU, 160, 96, 16, 32), tiny(SMALL, 320, 160, 24, 24), tiny(NPU, 640, 256), tiny(SMALL, 1024, 64), NPU, SMALL,
)  # fmt: skip
ORDERS = tuple(itertools.permutations((LOAD, COMPUTE, STORE)))

buffers = st.lists(
    st.tuples(st.integers(1, 60), st.integers(0, 12), st.integers(0, 6)).map(
        lambda drawn: (drawn[0], drawn[1], drawn[1] + drawn[2])
    ),
    max_size=14,
)


@given(buffers)
def test_no_two_live_buffers_overlap(drawn: list[tuple[int, int, int]]) -> None:
    made = [Buffer(str(number), *each) for number, each in enumerate(drawn)]
    addresses, used = place(made)
    assert used == max((addresses[each.name] + each.words for each in made), default=0)
    for one, other in itertools.combinations(made, 2):
        if one.first <= other.last and other.first <= one.last:
            start, at = addresses[one.name], addresses[other.name]
            assert start + one.words <= at or at + other.words <= start


@given(st.integers(1, 500), st.integers(1, 60))
def test_even_parts(size: int, at_most: int) -> None:
    parts = split_evenly(size, at_most)
    assert [row for part in parts for row in range(*part)] == list(range(size))
    sizes = [end - first for first, end in parts]
    assert max(sizes) <= at_most and max(sizes) - min(sizes) <= 1


@given(st.integers(1, 7), st.integers(1, 4), st.integers(0, 6), st.integers(1, 40))
def test_windows_need_what_they_read(kernel: int, stride: int, before: int, size: int) -> None:
    window = Window(kernel, stride, min(before, kernel - 1), size)
    low, high = window.needed((2, 5))
    read = {window.first(output) + tap for output in range(2, 5) for tap in range(kernel)}
    inside = {row for row in read if 0 <= row < size}
    assert high - low <= window.tallest(3)
    assert inside <= set(range(low, high)) <= set(range(size))
    if inside:
        assert low == min(inside)
        assert max(inside) < high <= max(inside) + stride


def work_of(sample: Sample, spec: Overlay) -> Work | None:
    graph = sample.graph
    wanted = frozenset(each.name for each in graph.outputs)
    try:
        return build(spec, graph.steps, graph.tensors, wanted)  # type: ignore[arg-type]
    except Unplaceable:
        return None


@given(seed=st.integers(0, 5000), spec=st.sampled_from(OVERLAYS))
@settings(max_examples=60, deadline=None)
def test_live_values_and_tiles_do_not_overlap(seed: int, spec: Overlay) -> None:
    work = work_of(net(seed), spec)
    assert work is not None
    try:
        homes = find_homes(work)
    except Unplaceable:
        return
    for index, tiling in enumerate(homes.tilings):
        live = [
            (homes.chip[name], value.shape.words)
            for name, value in work.values.items()
            if name in homes.chip and value.first <= index <= value.last
        ]
        sizes = (*tiling.input_words, tiling.output_words)
        tiles = [(at, size) for its, size in zip(homes.tiles[index], sizes, strict=True) for at in its]
        for one, other in itertools.combinations(live + tiles, 2):
            assert one[0] + one[1] <= other[0] or other[0] + other[1] <= one[0]
        assert all(at + size <= spec.memory.activation_words for at, size in live + tiles)
        names = work.names[index]
        assert all(
            (name in homes.chip) != bool(its) for name, its in zip(names, homes.tiles[index], strict=True)
        )


def answers(spec: Overlay, program: Program, sample: Sample, order: tuple[int, ...]) -> None:
    """Twice on the instruction set, engines in turn as ``order`` says; the golden model's bytes."""
    transport = FunctionalTransport(spec)
    transport._machine = Machine(spec, Memory(), order)
    driver = Driver(transport, spec)
    segment = only(program)
    wanted = run_layers(segment.layers, sample.planes)
    loaded = driver.load(program)
    for _ in range(2):
        for name, array in loaded.run(segment, sample.inputs).outputs.items():
            np.testing.assert_array_equal(array, from_planes(sample.graph.tensors[name], wanted[name]), name)
    driver.close()


@given(seed=st.integers(0, 5000), spec=st.sampled_from(OVERLAYS), order=st.sampled_from(ORDERS))
@settings(max_examples=60, deadline=None)
def test_random_nets(seed: int, spec: Overlay, order: tuple[int, ...]) -> None:
    sample = net(seed)
    try:
        program = compile_graph(sample.graph, spec)
    except UnsupportedModel as error:
        assert spec not in (NPU, SMALL), error
        return
    answers(spec, program, sample, order)


def sample_of(graph: Graph) -> Sample:
    rng = np.random.default_rng(5)
    shapes = {each.name: graph.tensors[each.name] for each in graph.inputs}
    planes = {
        name: rng.integers(-128, 128, (of.channels, of.height, of.width), np.int8)
        for name, of in shapes.items()
    }
    return Sample(graph, planes)


@pytest.mark.parametrize("order", ORDERS[::3])
def test_a_large_net_is_tiled_and_streamed(order: tuple[int, ...]) -> None:
    graph = mobilenet_graph(size=64, width=0.5, classes=40)
    spec = tiny(NPU, 1024, 768, 128, 64)
    program = compile_graph(graph, spec)
    segment = only(program)
    assert segment.scratch_bytes > 0
    assert len(segment.data) > spec.memory.weight_rows * spec.row_bytes
    answers(spec, program, sample_of(graph), order)


def test_small_nets_stay_on_the_chip() -> None:
    program = compile_graph(mobilenet_graph(size=48, width=0.25, classes=10), NPU)
    segment = only(program)
    assert segment.scratch_bytes == 0
    assert segment.resident is not None
    (source,) = segment.inputs
    assert (source.stack, source.rows, source.columns % 4) == (1, 49, 0)


def single(kernel: tuple[int, int], source_shape: tuple[int, int, int], out: int, **other: object) -> Sample:
    source = tensor("x", *source_shape)
    layer, target = conv(3, source, out, kernel, **other)  # type: ignore[arg-type]
    specs = [TensorSpec(each.name, "INT8", each.shape) for each in (source, target)]
    return sample_of(Graph("one", (specs[0],), (specs[1],), {"x": source, "y": target}, (layer,)))


@pytest.mark.parametrize(
    ("sample", "spec"),
    [
        # Kernels whose weights do not fit beside each other: cut along input blocks, rows and columns.
        (single((6, 6), (40, 6, 6), 20), tiny(NPU, 512, 64)),
        (single((9, 11), (17, 9, 11), 9), tiny(SMALL, 512, 32)),
        (single((3, 3), (200, 5, 5), 20), tiny(NPU, 1024, 128)),
        # Rows longer than the accumulators, and coordinates beyond 12 bits.
        (single((1, 3), (16, 2, 700), 8), NPU),
        (single((3, 1), (4, 5000, 2), 8), NPU),
        # Depthwise: dilated, wider than the line buffers, large kernels.
        (single((3, 3), (20, 9, 9), 20, depthwise=True, dilation=(2, 2), pads=(2, 2, 2, 2)), NPU),
        (single((3, 3), (16, 4, 600), 16, depthwise=True, pads=(1, 1, 1, 1)), NPU),
        (
            single((7, 5), (20, 9, 9), 20, depthwise=True, stride=(2, 1), pads=(3, 2, 3, 2)),
            tiny(NPU, 512, 64),
        ),
    ],
    ids=["deep", "deeper", "blocks", "wide", "tall", "dilated", "line", "kernel"],
)
def test_odd_layers(sample: Sample, spec: Overlay) -> None:
    answers(spec, compile_graph(sample.graph, spec), sample, ORDERS[0])


def test_weights_of_nine_bits_are_sums() -> None:
    sample = single((3, 3), (20, 6, 6), 20)
    (layer,) = sample.graph.steps
    assert isinstance(layer, Conv)
    weights = layer.weights.copy()
    weights[0, 0, 0, 0], weights[3, 1, 1, 1] = 255, -255
    graph = replace(sample.graph, steps=(replace(layer, weights=weights),))
    program = compile_graph(graph, NPU)
    flags = [only(program).data[at + 1] for at in range(0, 64 * 8, 64)]
    assert any(flag & NPU.flags["PARTIAL"] for flag in flags) and any(
        flag & NPU.flags["KEEP"] for flag in flags
    )
    answers(NPU, program, replace(sample, graph=graph), ORDERS[0])


@pytest.mark.parametrize(
    ("sample", "text"),
    [
        (single((3, 3), (64, 40, 40), 8), "one row of its output needs 480 words of 16 bytes"),
        (single((1, 1), (2, 400, 400), 8, stride=(300, 300)), "strides and dilations go up to 255, not 300"),
    ],
)
def test_layers_that_cannot_be_placed(sample: Sample, text: str) -> None:
    with pytest.raises(UnsupportedModel, match=text):
        compile_graph(sample.graph, tiny(NPU, 128, 512))


def test_tensors_beyond_the_address_space() -> None:
    source = tensor("x", 16, 300_000, 1000)
    layer, target = conv(1, source, 16, (1, 1))
    specs = [TensorSpec(name, "INT8", (1,)) for name in "xy"]
    graph = Graph("vast", (specs[0],), (specs[1],), {"x": source, "y": target}, (layer,))
    with pytest.raises(UnsupportedModel, match="its inputs take 4800000000 bytes, more than the 4294967295"):
        compile_graph(graph, NPU)


def test_scales_that_the_core_does_not_take() -> None:
    sample = single((1, 1), (2, 4, 4), 8)
    (layer,) = sample.graph.steps
    assert isinstance(layer, Conv)
    scale = np.full(8, 2.0**-70, np.float32)
    graph = replace(sample.graph, steps=(replace(layer, scale=scale),))
    with pytest.raises(UnsupportedModel, match=r"an output scale of 8.47\S*e-22 is outside"):
        compile_graph(graph, NPU)
