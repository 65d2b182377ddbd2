"""The instruction-level model against the golden model, by layers lowered by hand, and its errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from agent.overlay.descriptor import encode
from agent.overlay.driver import Driver
from agent.overlay.functional import run_layers
from agent.overlay.graph import Add, Conv, Pool, Tensor
from agent.overlay.program import Binding, Segment
from agent.overlay.spec import Overlay
from simulator.overlay.functional import FunctionalTransport
from simulator.overlay.machine import COMPUTE, DONE, ERROR, INTERRUPT, LOAD, START, STORE, Machine
from simulator.overlay.memory import Memory
from tests.unit.overlay import handmade
from tests.unit.overlay.handmade import NPU, SMALL, conv, conv_segment, image, pool_segment, tensor, transfer

SPECS = st.sampled_from([NPU, SMALL])
SEEDS = st.integers(0, 1 << 30)


def run(spec: Overlay, segment: Segment, images: Mapping[str, NDArray[np.int8]]) -> NDArray[np.int8]:
    """The segment's only output ``[C, H, W]``."""
    driver = Driver(FunctionalTransport(spec), spec)
    with_batch = {name: planes[None] for name, planes in images.items()}
    outputs = driver.load(handmade.program(spec, segment)).run(segment, with_batch).outputs
    driver.close()
    (found,) = outputs.values()
    planes: NDArray[np.int8] = found[0]
    return planes


@st.composite
def convolutions(draw: st.DrawFn, depthwise: bool) -> tuple[Overlay, Conv, Tensor, Tensor]:
    spec = draw(SPECS)
    channels, height, width = draw(st.integers(1, 40)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    source = tensor("x", channels, height, width, draw(st.integers(-128, 127)))
    size = (3, 3) if depthwise else draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    dilation = (1, 1) if depthwise else draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    pads = draw(st.tuples(*[st.integers(0, 2)] * 4))
    extent = [step * (length - 1) + 1 for length, step in zip(size, dilation, strict=True)]
    assume(height + pads[0] + pads[2] >= extent[0] and width + pads[1] + pads[3] >= extent[1])
    outputs = channels if depthwise else draw(st.integers(1, 40))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    layer, target = conv(
        draw(SEEDS), source, outputs, size, stride=stride, pads=pads, dilation=dilation, depthwise=depthwise
    )
    return spec, layer, source, target


@given(convolutions(depthwise=False), SEEDS)
@settings(deadline=None, max_examples=60)
def test_conv(case: tuple[Overlay, Conv, Tensor, Tensor], seed: int) -> None:
    spec, layer, source, target = case
    planes = image(seed, source)
    got = run(spec, conv_segment(spec, layer, source, target), {"x": planes})
    assert np.array_equal(got, run_layers([layer], {"x": planes})["y"])


@given(convolutions(depthwise=True), SEEDS)
@settings(deadline=None, max_examples=40)
def test_depthwise(case: tuple[Overlay, Conv, Tensor, Tensor], seed: int) -> None:
    spec, layer, source, target = case
    planes = image(seed, source)
    got = run(spec, conv_segment(spec, layer, source, target), {"x": planes})
    assert np.array_equal(got, run_layers([layer], {"x": planes})["y"])


def test_a_sum_of_more_products_than_float32_holds() -> None:
    source = tensor("x", 2048, 1, 1, 0)
    layer, target = conv(1, source, 16, (1, 1))
    layer = replace(layer, weights=np.full_like(layer.weights, -128), bias=np.full_like(layer.bias, 7))
    layer.weights[:, 1] = 127
    planes = np.full((2048, 1, 1), -128, np.int8)
    got = run(NPU, conv_segment(NPU, layer, source, target), {"x": planes})
    assert np.array_equal(got, run_layers([layer], {"x": planes})["y"])


@given(
    SPECS, st.booleans(), st.integers(1, 40), st.tuples(*[st.integers(1, 3)] * 4), st.tuples(*[st.integers(0, 1)] * 4),
    SEEDS,
)  # fmt: skip
@settings(deadline=None, max_examples=40)
def test_pool(
    spec: Overlay, maximum: bool, channels: int, window: Sequence[int], pads: tuple[int, int, int, int], seed: int
) -> None:  # fmt: skip
    source = tensor("x", channels, 5, 6, -3)
    kernel, stride = (window[0] + 1, window[1] + 1), (window[2], window[3])
    pads = pads if maximum else (0, 0, 0, 0)
    rows = (5 + pads[0] + pads[2] - kernel[0]) // stride[0] + 1
    columns = (6 + pads[1] + pads[3] - kernel[1]) // stride[1] + 1
    area = kernel[0] * kernel[1]
    layer = Pool(
        "layer", "x", "y", maximum, kernel, stride, pads, -128 if maximum else -3, 0 if maximum else 3 * area,
        1.0 if maximum else 0.7 / area, 0 if maximum else 5, -90, 110, ("node",),
    )  # fmt: skip
    target = tensor("y", channels, rows, columns)
    planes = image(seed, source)
    got = run(spec, pool_segment(spec, layer, source, target), {"x": planes})
    assert np.array_equal(got, run_layers([layer], {"x": planes})["y"])


@given(SPECS, st.integers(1, 40), st.integers(-(1 << 39), (1 << 39) - 1), SEEDS)
@settings(deadline=None, max_examples=40)
def test_add(spec: Overlay, channels: int, offset: int, seed: int) -> None:
    a, b = tensor("a", channels, 3, 5), tensor("b", channels, 3, 5)
    layer = Add("layer", "a", "b", "y", (1 << 24) - 1, 12345678, offset, 25, -128, 100, ("node",))
    segment = handmade.segment(
        spec, [layer], [a, b], tensor("y", channels, 3, 5), handmade.add_fields(spec, layer, a), b""
    )
    images = {"a": image(seed, a), "b": image(seed + 1, b)}
    assert np.array_equal(run(spec, segment, images), run_layers([layer], images)["y"])


def with_compute(segment: Segment, *fields: dict[str, int]) -> Segment:
    """The same with these compute descriptors (the first waits, the last signals) in place of its one."""
    data = [segment.data[i : i + 64] for i in range(0, len(segment.data), 64)]
    wait, signal = 1 << NPU.semaphores["LOAD_COMPUTE"], 1 << NPU.semaphores["COMPUTE_STORE"]
    chained = [dict(each) for each in fields]
    chained[0]["wait"], chained[-1]["signal"] = wait, signal
    chain = b"".join([data[0], *(encode(NPU, each) for each in chained), *data[2:4]])
    return replace(segment, data=segment.data + chain, chain=len(segment.data))


@pytest.mark.parametrize("depthwise", [False, True])
def test_sums_kept_from_descriptor_to_descriptor(depthwise: bool) -> None:
    """A kernel of six rows as two of three: PARTIAL, then KEEP."""
    flags = NPU.flags
    source = tensor("x", 16, 9, 8, -7)
    layer, target = conv(5, source, 16, (6, 3), pads=(2, 1, 3, 1), depthwise=depthwise)
    halves = [replace(layer, weights=layer.weights[:, :, rows]) for rows in (slice(0, 3), slice(3, 6))]
    stream = handmade.depthwise_stream if depthwise else handmade.conv_stream
    lower = handmade.depthwise_fields if depthwise else handmade.conv_fields
    streams = [stream(NPU, half) for half in halves]
    fields = [lower(NPU, half, source, target) for half in halves]
    fields[0] |= {"flags": flags["PARTIAL"]}
    fields[1] |= {
        "flags": flags["KEEP"], "weight_row": len(streams[0]) // NPU.row_bytes,
        "in_base": fields[0]["in_base"] + 3 * source.width, "y0": fields[0]["y0"] + 3,
    }  # fmt: skip
    whole = handmade.segment(NPU, [layer], [source], target, fields[0], b"".join(streams))
    planes = image(6, source)
    got = run(NPU, with_compute(whole, *fields), {"x": planes})
    assert np.array_equal(got, run_layers([layer], {"x": planes})["y"])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_packed_pixels(channels: int) -> None:
    """A first convolution whose window is a row of pixels of four bytes, ``stack`` rows in each."""
    stack, (height, width), (top, left) = 4 // channels, (7, 9), (1, 2)
    source = tensor("x", channels, height, width, 11)
    layer, target = conv(channels, source, 24, (stack, 5), stride=(2, 1), pads=(top, left, stack, 3))
    rows, columns = height + top + stack - stack + 1, -(-(width + left + 3 + 8) // 4) * 4
    binding = Binding(
        source, 0, rows * columns * 4, stack, (top, left, stack, 3), rows, columns, layer.pad_value
    )
    chunks = -(-5 * 4 // NPU.lanes)
    weights = np.zeros((24, NPU.lanes, 1, chunks), np.int16)
    for row, column, channel in np.ndindex(stack, 5, channels):
        chunk, byte = divmod(4 * column + row * channels + channel, NPU.lanes)
        weights[:, byte, 0, chunk] = layer.weights[:, channel, row, column]
    stream = handmade.conv_stream(NPU, replace(layer, weights=weights))
    fields = handmade.conv_fields(NPU, layer, source, target) | handmade.NO_PADS | {
        "flags": NPU.flags["PACKED"], "in_base": 0, "out_base": 1000, "count_b": 1, "step_b": 0, "y_b": 0,
        "count_c": chunks, "step_c": NPU.lanes // 4, "count_d": 1, "step_d": 0, "step_e": 2 * columns,
        "step_f": 1, "y0": 0, "x0": 0,
    }  # fmt: skip
    semaphores = NPU.semaphores
    words = handmade.words(NPU, target)
    chain = [
        transfer(NPU, "LOAD", 1, 0, rows * columns * 4 // NPU.lanes, signal=1 << semaphores["LOAD_COMPUTE"]),
        fields | {"wait": 1 << semaphores["LOAD_COMPUTE"], "signal": 1 << semaphores["COMPUTE_STORE"]},
        transfer(NPU, "STORE", 2, 1000, words, wait=1 << semaphores["COMPUTE_STORE"]),
        {"opcode": NPU.opcodes["END"]},
    ]
    plain = handmade.segment(NPU, [layer], [source], target, {"opcode": NPU.opcodes["POOL"]}, stream)
    at = len(plain.data)
    made = replace(
        plain, data=plain.data + b"".join(encode(NPU, each) for each in chain), chain=at, inputs=(binding,),
        input_bytes=binding.nbytes,
    )  # fmt: skip
    planes = image(9, source)
    assert np.array_equal(run(NPU, made, {"x": planes}), run_layers([layer], {"x": planes})["y"])


# -- chains, queues and errors, without a driver -----------------------------------------------------------------------

END = {"opcode": NPU.opcodes["END"]}
S = {name: 1 << bit for name, bit in NPU.semaphores.items()}
POOL = {
    "opcode": NPU.opcodes["POOL"], "act_min": -128, "act_max": 127, **handmade.NO_PADS,
}  # copies a word  # fmt: skip


class Core:
    """A machine with a region of 4 KiB each."""

    def __init__(self, order: Sequence[int] = (LOAD, COMPUTE, STORE)) -> None:
        memory = Memory()
        self.machine = Machine(NPU, memory, order)
        self.regions = [memory.allocate(4096) for _ in range(4)]
        self.set_regions()
        self.regions[1].write(0, bytes(i % 256 for i in range(4096)))

    def set_regions(self) -> None:
        for number, buffer in enumerate(self.regions):
            self.write(f"REGION{number}_LOW", buffer.address)
            self.write(f"REGION{number}_BYTES", buffer.nbytes)

    def write(self, name: str, value: int) -> None:
        self.machine.write32(NPU.register(name), value)

    def read(self, name: str) -> int:
        return self.machine.read32(NPU.register(name))

    def run(self, *chain: Mapping[str, int], raw: bytes = b"") -> tuple[int, str, int]:
        """STATUS's low bits, the name of the error, its index."""
        self.regions[0].write(0, b"".join(encode(NPU, each) for each in chain) + raw)
        self.write("CONTROL", START | INTERRUPT)
        status = self.read("STATUS")
        names = {code: name for name, code in NPU.errors.items()} | {0: ""}
        return status & 7, names[status >> 8], self.read("ERROR_INDEX")


def load(**other: int) -> dict[str, int]:
    return transfer(NPU, "LOAD", 1, 0, 4) | other


def store(**other: int) -> dict[str, int]:
    return transfer(NPU, "STORE", 2, 0, 4) | other


def test_a_load_and_a_store_copy_runs() -> None:
    core = Core()
    runs = load(runs=3, words=2, region_step=40, chip=8, chip_step=5, offset=16, signal=S["LOAD_STORE"])
    back = store(runs=3, words=2, region_step=64, chip=8, chip_step=5, offset=8, wait=S["LOAD_STORE"])
    assert core.run(runs, back, END) == (DONE, "", 0)
    got = core.regions[2].read(0, 256)
    for run_ in range(3):
        first = 16 + 40 * run_
        assert got[8 + 64 * run_ :][:32] == bytes((first + i) % 256 for i in range(32))
    assert core.read("DESCRIPTORS") == 2
    assert (core.read("READ_BEATS"), core.read("WRITE_BEATS")) == (12 + 3 * 8, 12)
    assert core.machine.interrupt
    core.write("STATUS", DONE)
    assert not core.machine.interrupt
    assert core.read("STATUS") == 0


@pytest.mark.parametrize("order", [(LOAD, COMPUTE, STORE), (STORE, COMPUTE, LOAD), (COMPUTE, STORE, LOAD)])
def test_a_chain_that_waits_gives_the_same_in_any_order(order: Sequence[int]) -> None:
    core = Core(order)
    chain: list[Mapping[str, int]] = []
    for i in range(40):  # one buffer for all: load, then store, then load again
        chain += [
            load(offset=16 * i, words=1, signal=S["LOAD_STORE"], wait=S["STORE_LOAD"] if i else 0),
            store(offset=16 * i, words=1, wait=S["LOAD_STORE"], signal=S["STORE_LOAD"]),
        ]
    core.regions[0].write(0, bytes(4096))
    chunk = [*chain[:60], END]
    assert core.run(*chunk) == (DONE, "", 0)
    assert core.regions[2].read(0, 480) == core.regions[1].read(0, 480)


@pytest.mark.parametrize(
    ("chain", "error", "index"),
    [
        ([load(wait=S["COMPUTE_LOAD"]), END], "WATCHDOG", 0),
        ([load(signal=S["LOAD_STORE"]), store(wait=S["LOAD_STORE"]), store(wait=S["LOAD_STORE"]), END], "WATCHDOG", 2),
        ([load(offset=4096), END], "BOUNDS", 0),
        ([load(), load(offset=4080, words=2), END], "BOUNDS", 1),
        ([load(runs=0), END], "BOUNDS", 0),
        ([load(words=0), END], "BOUNDS", 0),
        ([load(offset=4), END], "BOUNDS", 0),
        ([load(region_step=4), END], "BOUNDS", 0),
        ([load(chip=8191, words=2), END], "BOUNDS", 0),
        ([load(chip=12287, flags=NPU.flags["WEIGHTS"], words=2), END], "BOUNDS", 0),
        ([store(chip=8191, words=2), END], "BOUNDS", 0),
        ([POOL | {"in_base": -1}, END], "BOUNDS", 0),
        ([POOL | {"in_base": 8192}, END], "BOUNDS", 0),
        ([POOL | {"out_base": 8192}, END], "BOUNDS", 0),
        ([POOL | {"count_a": 2, "out_base": 1, "out_step": 8191}, END], "BOUNDS", 0),
        ([POOL | {"count_a": 2, "out_base": 1, "out_step": 65535}, POOL | {"out_base": 8192}, END], "BOUNDS", 1),
        ([POOL | {"weight_row": 6141}, END], "BOUNDS", 0),
        ([POOL | {"opcode": NPU.opcodes["CONV"], "weight_row": 6133}, END], "BOUNDS", 0),
        ([POOL | {"opcode": NPU.opcodes["CONV"], "count_e": 513}, END], "TILE", 0),
        ([POOL | {"opcode": NPU.opcodes["DEPTHWISE"], "count_f": 513, "count_e": 3}, END], "TILE", 0),
        (
            [POOL | {"opcode": NPU.opcodes["DEPTHWISE"], "count_f": 34, "count_e": 34, "stride_x": 1,
                     "stride_y": 1, "flags": NPU.flags["PARTIAL"]}, END],
            "TILE", 0,
        ),
        ([load()] * 64, "BOUNDS", 64),
    ],
)  # fmt: skip
def test_errors_have_a_code_and_an_index(chain: list[Mapping[str, int]], error: str, index: int) -> None:
    core = Core()
    assert core.run(*chain) == (ERROR, error, index)
    assert core.machine.interrupt
    assert core.run(END)[0] == ERROR  # a start counts only after a reset
    core.write("CONTROL", 2)
    core.set_regions()
    assert core.run(END) == (DONE, "", 0)


def test_an_unknown_opcode() -> None:
    assert Core().run(load(), raw=b"\x77" + bytes(63)) == (ERROR, "OPCODE", 1)


def test_memory_that_is_not_there() -> None:
    core = Core()
    core.write("REGION1_LOW", 0x4000_0000)
    assert core.run(load(), END) == (ERROR, "AXI", 0)


def test_registers() -> None:
    core = Core()
    assert core.read("ACTIVATION_WORDS") == 8192
    core.write("ID", 1)
    assert core.read("ID") == 0x4F564C4E
    assert core.machine.read32(0xFFC) == 0
    core.write("CHAIN", 0x7F)
    assert core.read("CHAIN") == 0x40
    core.write("REGION3_HIGH", 0x1_0000_0005)
    assert core.read("REGION3_HIGH") == 5
    core.write("WATCHDOG", 77)
    core.write("CONTROL", 2)
    assert core.read("WATCHDOG") == NPU.axi.watchdog_cycles
    assert core.read("REGION3_HIGH") == 0


def test_cycles_are_those_of_the_model() -> None:
    core = Core()
    core.run(load(), END)
    short = core.read("CYCLES")
    core.run(*[load(words=200)] * 10, END)
    assert 0 < short < core.read("CYCLES")
