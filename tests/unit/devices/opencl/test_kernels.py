"""Every kernel, those of CPUs and those of GPUs, on PoCL: the bytes of the golden model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.devices.opencl.platforms import ClDevice
from agent.overlay.graph import Pool
from agent.overlay.program import Segment
from tests.unit.devices.opencl.layers import Bench, compare, segment_of
from tests.unit.devices.opencl.segments import KINDS, many_layers, single_layers
from tests.unit.overlay.handmade import conv, tensor

# Of the golden model, whose scale takes a sum beyond float32: infinite, then bounded.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def bench(request: pytest.FixtureRequest, cpu: ClDevice) -> Bench:
    """The GPU's groups of one work-item: PoCL compiles a kernel again for every size of group."""
    return Bench(cpu, kind=request.param, group=None if request.param == "cpu" else 1)


@pytest.mark.parametrize("kind", KINDS)
def test_layers(bench: Bench, kind: str) -> None:
    @settings(max_examples=60)
    @given(single_layers(kind), st.integers(0, 2**32), st.integers(1, 3))
    def check(segment: Segment, seed: int, batch: int) -> None:
        compare(bench, segment, seed, batch)

    check()


def test_segments(bench: Bench) -> None:
    @settings(max_examples=40)
    @given(many_layers(), st.integers(0, 2**32), st.integers(1, 3))
    def check(segment: Segment, seed: int, batch: int) -> None:
        compare(bench, segment, seed, batch)

    check()


@pytest.mark.parametrize("outputs", [1, 16, 17, 64, 130])
@pytest.mark.parametrize("side", [1, 13])
def test_many_inputs(bench: Bench, outputs: int, side: int) -> None:
    """More than are summed in floats at a time, to several groups of outputs."""
    source = tensor("x", 70, side, side)
    layer, made = conv(outputs, source, outputs, (3, 3), pads=(1, 1, 1, 1))
    for weights in (layer.weights, np.full_like(layer.weights, 255), np.full_like(layer.weights, -32768)):
        compare(bench, segment_of([replace(layer, weights=weights)], [source], [made]), 1, 3)


@pytest.mark.parametrize("depthwise", [False, True])
def test_rows_wider_than_a_work_item_copies(bench: Bench, depthwise: bool) -> None:
    source = tensor("x", 5, 6, 2000)
    layer, made = conv(1, source, 5, (3, 3), stride=(1, 2), pads=(1, 1, 1, 1), depthwise=depthwise)
    compare(bench, segment_of([layer], [source], [made]), 1, 2)


@pytest.mark.parametrize("maximum", [False, True])
def test_windows_larger_than_a_work_item_copies(bench: Bench, maximum: bool) -> None:
    source, made = tensor("x", 3, 70, 80), tensor("y", 3, 4, 5)
    rest = (-128, 0, 1.0, 0) if maximum else (3, -15000, 0.00025, -4)
    layer = Pool("pool", "x", "y", maximum, (69, 75), (1, 2), (1, 2, 1, 1), *rest, -128, 127, ())
    compare(bench, segment_of([layer], [source], [made]), 1, 2)


def test_groups_that_are_not_filled(cpu: ClDevice) -> None:
    """Work-items beyond the last pixel, row and block do nothing."""
    bench = Bench(cpu, kind="gpu", group=64)
    source = tensor("x", 20, 9, 9)
    first, middle = conv(1, source, 20, (3, 3), pads=(1, 1, 1, 1), depthwise=True)
    second, made = conv(2, middle, 13, (3, 3))
    second, made = replace(second, input="y", output="z"), replace(made, name="z")
    third, last = conv(3, made, 17, (5, 5))  # five blocks, for groups of four
    third, last = replace(third, output="last"), replace(last, name="last")
    compare(bench, segment_of([first, second, third], [source], [middle, made, last]), 1, 2)
