"""Plans of random segments: what lives at once lies apart, everything fits, and every argument is one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.devices.opencl.lower import plan_segment
from agent.devices.opencl.plan import Argument, Launch, SegmentPlan, Slot, Traits
from agent.devices.opencl.slots import Life, assign
from agent.devices.opencl.source import build_options
from agent.overlay.graph import Add
from agent.overlay.program import Segment
from tests.unit.devices.opencl.layers import segment_of
from tests.unit.devices.opencl.segments import many_layers
from tests.unit.overlay.handmade import conv, tensor

CPU = Traits("cpu", False, 2, 4096)
GPU = Traits("gpu", True, 32, 256)
devices = st.builds(
    Traits, st.sampled_from(("cpu", "gpu", "accelerator")), st.booleans(), st.integers(1, 200),
    st.sampled_from((1, 2, 16, 100, 256, 1024)),
)  # fmt: skip


@st.composite
def lives(draw: st.DrawFn) -> list[Life]:
    count = draw(st.integers(1, 30))
    firsts = [draw(st.integers(0, 20)) for _ in range(count)]
    return [
        Life(f"t{i}", draw(st.integers(1, 1000)), first, first + draw(st.integers(0, 9)), draw(st.booleans()))
        for i, first in enumerate(firsts)
    ]


@given(lives())
def test_tensors_that_live_at_once_lie_apart(tensors: list[Life]) -> None:
    slot_of, sizes = assign(tensors)
    assert set(slot_of) == {life.name for life in tensors} and set(slot_of.values()) == set(range(len(sizes)))
    for i, one in enumerate(tensors):
        assert sizes[slot_of[one.name]] >= one.nbytes
        for other in tensors[:i]:
            at_once = one.first <= other.last and other.first <= one.last
            apart = at_once or not one.shared or not other.shared
            assert not (apart and slot_of[one.name] == slot_of[other.name])
    assert sum(sizes) <= sum(life.nbytes for life in tensors)


def test_a_chain_takes_the_two_largest_neighbours() -> None:
    chain = [Life("a", 10, 0, 1), Life("b", 100, 1, 2), Life("c", 70, 2, 3), Life("d", 5, 3, 4)]
    assert assign(chain) == ({"a": 0, "b": 1, "c": 0, "d": 1}, (70, 100))


@settings(max_examples=60)
@given(many_layers(), devices)
def test_a_launch_reads_what_was_written_last(segment: Segment, traits: Traits) -> None:
    """Slots replayed: each holds the tensor that was written to it last."""
    plan = plan_segment(segment, traits)
    held = {crossing.slot: f"raw {crossing.name}" for crossing in plan.inputs}
    for launch, (reads, writes) in zip(plan.launches, _flow(segment), strict=True):
        slots = [argument.index for argument in launch.arguments if isinstance(argument, Slot)]
        assert [held[slot] for slot in slots[:-1]] == reads
        assert slots[-1] not in slots[:-1]
        held[slots[-1]] = writes
    assert [held[crossing.slot] for crossing in plan.outputs] == [f"out {each.name}" for each in plan.outputs]
    crossing_slots = [crossing.slot for crossing in (*plan.inputs, *plan.outputs)]
    used = [arg for launch in plan.launches for arg in launch.arguments if isinstance(arg, Slot)]
    assert all(used.count(Slot(slot)) == 1 for slot in crossing_slots)  # shared with nothing else


def _flow(segment: Segment) -> list[tuple[list[str], str]]:
    """What each launch reads and writes."""
    names = [[layer.a, layer.b] if isinstance(layer, Add) else [layer.input] for layer in segment.layers]
    return [
        *(([f"raw {b.tensor.name}"], b.tensor.name) for b in segment.inputs),
        *((name, layer.output) for name, layer in zip(names, segment.layers, strict=True)),
        *(([b.tensor.name], f"out {b.tensor.name}") for b in segment.outputs),
    ]


@settings(max_examples=60)
@given(many_layers(), devices)
def test_launches_fit_the_device(segment: Segment, traits: Traits) -> None:
    plan = plan_segment(segment, traits)
    for launch in plan.launches:
        assert all(_is_there(plan, argument) for argument in launch.arguments)
        assert np.prod(launch.local) <= traits.group
        assert launch.local[2] == 1  # the third dimension is multiplied by the samples
        assert all(n > 0 and n % of == 0 for n, of in zip(launch.size, launch.local, strict=True))
    assert [launch.layer for launch in plan.launches if launch.layer is not None] == list(
        range(len(segment.layers))
    )


def _is_there(plan: SegmentPlan, argument: Argument) -> bool:
    if isinstance(argument, int):
        return -(2**31) <= argument < 2**31
    return argument.index < len(plan.slots if isinstance(argument, Slot) else plan.constants)


def test_tensors_may_have_any_name() -> None:
    source, middle, last = (tensor(name, 8, 4, 4) for name in ("from host x", "x", "to host x"))
    first, second = (conv(1, source, 8, (1, 1))[0] for _ in range(2))
    first = replace(first, output="x")
    second = replace(second, input="x", output=last.name)
    plan = plan_segment(segment_of([first, second], [source], [middle, last]), CPU)
    assert [crossing.name for crossing in (*plan.inputs, *plan.outputs)] == ["from host x", "x", "to host x"]
    assert len({crossing.slot for crossing in (*plan.inputs, *plan.outputs)}) == 3


def test_a_layer_takes_its_constants_and_both_forms_of_what_crosses() -> None:
    source = tensor("x", 6, 5, 5)
    layer, made = conv(1, source, 20, (1, 1))
    plan = plan_segment(segment_of([layer], [source], [made]), GPU)
    constants = 20 * 8 + 20 * 4 + 20 * 4  # weights of eight inputs, biases, scales
    slots = 6 * 25 + 8 * 25 + 20 * 25 + 20 * 25  # as it comes, in blocks of four, and so out again
    assert (sum(map(len, plan.constants)), sum(plan.slots)) == (constants, slots)
    assert plan.largest(3) == 3 * 20 * 25


def test_weights_that_leave_int8_take_twice_the_memory_and_another_kernel() -> None:
    source = tensor("x", 8, 4, 4)
    layer, made = conv(1, source, 16, (1, 1))
    wide = replace(layer, weights=layer.weights.copy())
    wide.weights[0, 0] = 200
    for traits in (CPU, GPU):
        narrow, other = (plan_segment(segment_of([each], [source], [made]), traits) for each in (layer, wide))
        assert sum(map(len, other.constants)) - sum(map(len, narrow.constants)) == 16 * 8
        assert _conv(other).kernel == f"{_conv(narrow).kernel}_wide"


@pytest.mark.parametrize(("largest", "words"), [(1, 128), (255, 128), (1000, 32), (-32768, 1)])
def test_cpus_sum_in_floats_no_longer_than_they_are_exact(largest: int, words: int) -> None:
    source = tensor("x", 8, 4, 4)
    layer, made = conv(1, source, 16, (3, 3), pads=(1, 1, 1, 1))
    weights = np.zeros_like(layer.weights)
    weights[0, 0, 0, 0] = largest
    plan = plan_segment(segment_of([replace(layer, weights=weights)], [source], [made]), CPU)
    assert _conv(plan).arguments[-1] == words
    assert words * 4 * abs(largest) * 128 <= 2**24


def test_equal_constants_are_kept_once() -> None:
    source = tensor("x", 8, 4, 4)
    layer, made = conv(1, source, 8, (1, 1))
    again = replace(layer, input="y", output="z")
    plan = plan_segment(segment_of([layer, again], [source], [replace(made, name="z")]), GPU)
    assert len(plan.constants) == 3


def test_few_pixels_of_many_outputs_fill_a_group() -> None:
    source = tensor("x", 64, 1, 1)
    layer, made = conv(1, source, 1000, (1, 1))
    launch = _conv(plan_segment(segment_of([layer], [source], [made]), GPU))
    assert (launch.size, launch.local) == ((1, 256, 1), (1, 64, 1))


def test_a_cpu_has_something_for_every_unit() -> None:
    source = tensor("x", 64, 1, 1)
    layer, made = conv(1, source, 1000, (1, 1))
    for units in (1, 2, 16):
        launch = _conv(plan_segment(segment_of([layer], [source], [made]), replace(CPU, units=units)))
        assert np.prod(launch.size) >= min(4 * units, 32)


def test_options_say_what_the_device_has() -> None:
    assert build_options(CPU) == ("-cl-std=CL1.2", "-DOVERLAID_CPU=1", "-DOVERLAID_DOT=0")
    assert build_options(GPU) == ("-cl-std=CL3.0", "-DOVERLAID_CPU=0", "-DOVERLAID_DOT=1")


def _conv(plan: SegmentPlan) -> Launch:
    (found,) = [launch for launch in plan.launches if launch.kernel.startswith("conv")]
    return found
