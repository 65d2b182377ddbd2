"""Samples that overlap: the order of work, its seconds, and answers that are never mixed whatever fails."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.devices.program import FunctionalEngine
from agent.devices.slot import OverlayEngine, Slot
from agent.errors import DeviceLost, InferenceError, OverlayTaken, TensorError
from agent.overlay.counters import Ended
from agent.overlay.driver import Driver
from agent.overlay.execute import RunPart
from agent.overlay.graph import Foreign, Host
from agent.overlay.overlap import Overlapped
from agent.overlay.program import Part, Program
from agent.overlay.regions import Arrays, HostTimes
from agent.overlay.spec import overlay_folder
from agent.types import TensorSpec
from simulator.overlay.functional import FunctionalTransport
from tests.unit.overlay.faulty import FaultyTransport
from tests.unit.overlay.handmade import NPU, conv, conv_segment, image, program, tensor
from tests.unit.overlay.wayward import Wayward

SOURCE = tensor("x", 3, 4, 4, 2)
FOLDER = overlay_folder("npu")
PART = Foreign(("f",), ("z",), ("negate",), "why")


def mixed(seed: int) -> Program:
    """A convolution, its numbers, a CPU segment; any batch."""
    layer, target = conv(seed, SOURCE, 4, (4, 4))
    scale = {"scale": (0.5,), "zero_point": (3,)}
    steps = (
        conv_segment(NPU, layer, SOURCE, target),
        Host("reshape", ("y",), ("flat",), {"shape": (1, 4)}, ("flatten",)),
        Host("dequantize", ("flat",), ("f",), scale, ("dequantize",)),
        Part(PART, "onnx", b""),
    )
    return free(replace(program(NPU, steps[0]), steps=steps), TensorSpec("z", "FP32", (-1, 4)))


def chained(seed: int) -> Program:
    """Two segments, each with weights that stay on the chip, and a CPU segment between them."""
    layer, middle = conv(seed, SOURCE, 4, (1, 1))
    between = replace(middle, name="z")
    last, _ = conv(seed + 1, between, 6, (3, 3))
    first, second = conv_segment(NPU, layer, SOURCE, middle), conv_segment(NPU, last, between, _)
    steps = (first, Part(replace(PART, inputs=("y",)), "onnx", b""), second)
    made = program(NPU, first, second)
    return free(replace(made, steps=steps), TensorSpec("y", "INT8", (-1, *made.outputs[0].shape[1:])))


def free(made: Program, output: TensorSpec) -> Program:
    """The same for any batch."""
    given = replace(made.inputs[0], shape=(-1, *made.inputs[0].shape[1:]))
    return replace(made, inputs=(given,), outputs=(output,))


def negate(part: Part, tensors: Arrays) -> Arrays:
    (name,) = part.foreign.inputs
    return {"z": np.bitwise_not(tensors[name]) if tensors[name].dtype == np.int8 else -tensors[name]}


def samples(seed: int, count: int) -> list[dict[str, Any]]:
    return [{"x": image(100 * seed + number, SOURCE)[None]} for number in range(count)]


def answers(made: Program, given: list[dict[str, Any]]) -> list[Any]:
    return plain(FunctionalEngine(made).execute(given, negate).outputs)


def plain(outputs: list[dict[str, Any]]) -> list[Any]:
    return [{name: array.tolist() for name, array in each.items()} for each in outputs]


@contextmanager
def slot(chance: random.Random) -> Iterator[tuple[Slot, list[Wayward]]]:
    """An FPGA, and what was loaded on it."""
    opened: list[Wayward] = []

    def load(folder: object) -> Wayward:
        opened.append(Wayward(FunctionalTransport(NPU), NPU, chance))
        return opened[-1]

    with mock.patch("agent.devices.slot.find_transport", lambda name: load):
        yield Slot("functional"), opened


def failing_part(chance: random.Random, often: float) -> RunPart:
    def run(part: Part, tensors: Arrays) -> Arrays:
        if chance.random() < often:
            raise InferenceError("the runtime failed")
        return negate(part, tensors)

    return run


@settings(max_examples=60)
@given(
    st.integers(0, 2**32),
    st.sampled_from([0.0, 0.003, 0.02]),
    st.sampled_from([0.0, 0.1, 0.5]),
    st.sampled_from([0.0, 0.1]),
)
def test_answers_are_never_mixed(seed: int, failing: float, taken: float, parts_fail: float) -> None:
    chance = random.Random(seed)
    made = [mixed(1), mixed(5), chained(9)]
    with slot(chance) as (fpga, opened):
        engines = [OverlayEngine(fpga, FOLDER, each) for each in made]
        for number in range(12):
            opened[-1].failing, opened[-1].taken = failing, taken
            which = chance.randrange(3)
            given_ = samples(seed % 1000 + number, chance.randrange(1, 6))
            try:
                done = engines[which].execute(given_, failing_part(chance, parts_fail))
            except (DeviceLost, OverlayTaken, InferenceError):  # what was made to happen, and nothing else
                if not opened[-1].closed:
                    assert opened[-1].idle, "what failed goes on"
            else:
                assert plain(done.outputs) == answers(made[which], given_)
        opened[-1].failing = opened[-1].taken = 0.0
        for engine, each in zip(engines, made, strict=True):
            assert plain(engine.execute(samples(7, 3), negate).outputs) == answers(each, samples(7, 3))


@pytest.mark.parametrize("make", [mixed, chained])
def test_a_batch_is_packed_and_unpacked_while_the_overlay_works(make: Callable[[int], Program]) -> None:
    with slot(random.Random(1)) as (fpga, opened):
        engine = OverlayEngine(fpga, FOLDER, make(1))
        engine.execute(samples(1, 1), negate)
        assert opened[0].overlapped == 0
        engine.execute(samples(1, 8), negate)
        assert opened[0].overlapped > 4


def test_weights_stay_on_the_chip_for_a_whole_batch() -> None:
    transport = FaultyTransport(FunctionalTransport(NPU), NPU)
    loaded = Driver(transport, NPU).load(mixed(1))
    Overlapped(loaded, negate).run(samples(1, 5))
    assert transport.starts == 1 + 5


def test_a_sample_that_does_not_fit_stops_what_runs() -> None:
    transport = FaultyTransport(FunctionalTransport(NPU), NPU)
    loaded = Driver(transport, NPU).load(mixed(1))
    wrong = {"x": np.zeros((1, 3, 4, 5), np.int8)}
    resets = transport.resets
    with pytest.raises(TensorError, match="'x': wanted INT8"):
        Overlapped(loaded, negate).run([*samples(1, 2), wrong, *samples(2, 1)])
    assert transport.resets == resets + 2  # to take the overlay, and to stop it
    found = Overlapped(loaded, negate).run(samples(3, 2))
    assert plain(found) == answers(mixed(1), samples(3, 2))


def test_programs_of_one_batch_have_one_bank() -> None:
    fixed = replace(mixed(1), inputs=(TensorSpec("x", "INT8", (1, 3, 4, 4)),))
    transport = FaultyTransport(FunctionalTransport(NPU), NPU)
    loaded = Driver(transport, NPU).load(fixed)
    assert (loaded.banks, len(transport.buffers)) == (1, 3)
    found = Overlapped(loaded, negate).run(samples(3, 3))  # one after the other
    assert plain(found) == answers(mixed(1), samples(3, 3))


class Clock:
    """Time passes when somebody works."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Timed:
    """See ``LoadedProgram``: packing takes 2 s, unpacking 1 s, a run 10 s, of which nobody waits for any."""

    banks = 2

    def __init__(self, made: Program, clock: Clock, run_s: float) -> None:
        self.program, self._clock, self._run_s = made, clock, run_s
        self.log: list[str] = []

    def write(self, segment: object, tensors: Arrays, bank: int) -> HostTimes:
        self._clock.now += 2.0
        self.log.append(f"write {bank}")
        return HostTimes(1.5, 0.5)

    def start(self, segment: object, bank: int) -> None:
        self._clock.now += 1000.0  # of a simulation: means nothing
        self.log.append(f"start {bank}")

    def wait(self) -> Ended:
        self._clock.now += 1000.0
        self.log.append("wait")
        return mock.Mock(spec=Ended)

    def seconds(self, ended: Ended) -> float:
        return self._run_s

    def read(self, segment: object, bank: int) -> tuple[dict[str, Any], HostTimes]:
        self._clock.now += 1.0
        self.log.append(f"read {bank}")
        return {"y": np.zeros((1, 4, 1, 1), np.int8)}, HostTimes(0.75, 0.25)


@pytest.mark.parametrize(
    ("run_s", "count", "device_s"),
    [
        (10.0, 1, 2 + 10 + 1),
        (10.0, 3, 2 + 3 * 10 + 1),
        (1.0, 4, 2 + 2 + 2 * 3 + 1 + 1),  # packing and unpacking are what takes long
        (2.5, 4, 2 + 2.5 + 2 * 3 + 2.5 + 1),
    ],
)
def test_what_overlaps_counts_once(
    monkeypatch: pytest.MonkeyPatch, run_s: float, count: int, device_s: float
) -> None:
    clock = Clock()
    monkeypatch.setattr("agent.overlay.overlap.time.perf_counter", clock)
    timed = Timed(mixed(1), clock, run_s)
    overlapped = Overlapped(timed, negate)  # type: ignore[arg-type]
    overlapped.run(samples(1, count))
    times = overlapped.times
    assert times.device_s == pytest.approx(device_s)
    assert (times.host_s, times.overlay_s) == pytest.approx((3 * count, run_s * count))
    assert times.transfer_s == pytest.approx(0.75 * count)
    if count == 3:
        assert timed.log == [
            "write 0", "start 0", "write 1", "wait", "start 1", "read 0", "write 0", "wait", "start 0", "read 1",
            "wait", "read 0",
        ]  # fmt: skip
