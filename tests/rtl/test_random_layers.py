"""Random layers and small nets: the compiled program on the RTL, with a bus that stalls, gives the bytes of the golden
model, and so does the instruction set in numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.hal import OverlayTransport
from agent.overlay.compiler import compile_graph
from agent.overlay.driver import Driver
from agent.overlay.functional import Layers, from_planes
from agent.overlay.graph import Add, Conv, Layer, Pool, Tensor
from agent.overlay.program import Program, Segment
from agent.overlay.spec import Overlay
from simulator.overlay.functional import FunctionalTransport
from simulator.overlay.rtl import Ddr, RtlTransport
from tests.rtl.layers import Sample, random_large, random_layer, random_net

LAYERS = 50  # of one test
NETS = 10
LARGE = 12
MEMORIES = (
    Ddr(), Ddr(stall_permille=30, seed=2), Ddr(stall_permille=300, seed=3), Ddr(1, 1, 100, 4), Ddr(90, 60, 10, 5),
    Ddr(17, 0, 600, 6),
)  # fmt: skip


@pytest.mark.parametrize("block", range(len(MEMORIES)))
def test_layers(spec: Overlay, block: int, open_rtl: Callable[[Ddr], RtlTransport]) -> None:
    samples = [random_layer(seed) for seed in range(block * LAYERS, (block + 1) * LAYERS)]
    compare(spec, samples, open_rtl(MEMORIES[block]))


@pytest.mark.parametrize("block", range(len(MEMORIES)))
def test_nets(spec: Overlay, block: int, open_rtl: Callable[[Ddr], RtlTransport]) -> None:
    samples = [random_net(seed) for seed in range(block * NETS, (block + 1) * NETS)]
    compare(spec, samples, open_rtl(MEMORIES[block]))


def test_layers_larger_than_the_chip(spec: Overlay, open_rtl: Callable[[Ddr], RtlTransport]) -> None:
    samples = [random_large(seed) for seed in range(LARGE)]
    words = [sum(words_of(spec, tensor) for tensor in sample.graph.tensors.values()) for sample in samples]
    assert sum(each > spec.memory.activation_words for each in words) > LARGE // 2
    compare(spec, samples, open_rtl(MEMORIES[1]))


def words_of(spec: Overlay, tensor: Tensor) -> int:
    """Of the activation memory."""
    return -(-tensor.channels // spec.lanes) * tensor.height * tensor.width


def compare(spec: Overlay, samples: list[Sample], rtl: OverlayTransport) -> None:
    """Every tensor of every sample on all executors."""
    drivers = {"functional": Driver(FunctionalTransport(spec), spec), "rtl": Driver(rtl, spec)}
    for sample in samples:
        program = compile_graph(sample.graph, spec)
        golden = Layers(steps(sample)).run(sample.planes)
        expected = {name: from_planes(sample.graph.tensors[name], golden[name]) for name in results(sample)}
        for executor, driver in drivers.items():
            found = run(driver, program, sample)
            for name, array in expected.items():
                wrong = np.count_nonzero(array != found[name])
                assert wrong == 0, f"{sample.graph.name}, {name}: {wrong} of {array.size} bytes on {executor}"


def results(sample: Sample) -> list[str]:
    return [spec.name for spec in sample.graph.outputs]


def run(driver: Driver, program: Program, sample: Sample) -> dict[str, NDArray[Any]]:
    """The outputs of its one segment."""
    (segment,) = program.steps
    assert isinstance(segment, Segment)
    loaded = driver.load(program)
    try:
        return loaded.run(segment, sample.inputs).outputs
    finally:
        loaded.close()


def test_what_is_random_covers_what_the_overlay_does() -> None:
    """The generator: 500 layers and more on both overlays, of every kind."""
    layers = [layer for seed in range(len(MEMORIES) * LAYERS) for layer in steps(random_layer(seed))]
    layers += [layer for seed in range(len(MEMORIES) * NETS) for layer in steps(random_net(seed))]
    assert 2 * len(layers) >= 500
    convs = [layer for layer in layers if isinstance(layer, Conv)]
    pools = [layer for layer in layers if isinstance(layer, Pool)]
    kinds: dict[str, Sequence[Layer]] = {
        "depthwise": [each for each in convs if each.depthwise],
        "9-bit weights": [each for each in convs if np.abs(each.weights).max() > 128],
        "dilation": [each for each in convs if max(each.dilation) > 1],
        "strides": [each for each in convs if each.stride[0] != each.stride[1]],
        "uneven padding": [
            each for each in convs if each.pads[0] != each.pads[2] or each.pads[1] != each.pads[3]
        ],
        "few channels": [each for each in convs if each.weights.shape[1] <= 4 and not each.depthwise],
        "one pixel": [each for each in convs if each.weights.shape[2:] == (1, 1)],
        "large kernels": [each for each in convs if max(each.weights.shape[2:]) > 3],
        "maximum": [each for each in pools if each.maximum],
        "average": [each for each in pools if not each.maximum],
        "sum": [each for each in layers if isinstance(each, Add)],
        "bounds": [each for each in layers if each.low > -128 and each.high < 127],
    }
    assert {kind: len(found) for kind, found in kinds.items() if len(found) < 10} == {}


def steps(sample: Sample) -> list[Layer]:
    return [step for step in sample.graph.steps if isinstance(step, Conv | Pool | Add)]
