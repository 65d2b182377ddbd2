"""What every overlay transport promises (``agent/hal/overlay.py``), and the driver on each of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.devices.program import FunctionalEngine
from agent.errors import DeviceError, DeviceLost, DmaTimeout, OverlayFault, OverlayHung, OverlayLoadError
from agent.hal import OverlayTransport
from agent.overlay.compiler import compile_model
from agent.overlay.descriptor import encode
from agent.overlay.driver import Driver
from agent.overlay.execute import execute
from agent.overlay.functional import run_layers
from agent.overlay.overlap import Overlapped
from agent.overlay.program import Part, Segment
from agent.overlay.regions import Arrays
from agent.overlay.spec import ID, Overlay, load_spec, overlay_folder
from agent.overlay.transports import find_transport
from simulator.overlay.rtl import BusFaults, RtlTransport
from tests.unit.overlay import handmade
from tests.unit.overlay.faulty import FaultyTransport
from tests.unit.overlay.handmade import conv, conv_segment, image, tensor, transfer

DONE, ERROR = 2, 4
MODELS = Path(__file__).parents[2] / "models"
SOURCE = tensor("x", 20, 5, 6, 9)


@pytest.fixture(params=["functional", "rtl"])
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(params=["npu", "npu-small"])
def spec(request: pytest.FixtureRequest) -> Overlay:
    return load_spec(request.param)


@pytest.fixture
def opened(name: str, spec: Overlay) -> Iterator[OverlayTransport]:
    transport = find_transport(name)(overlay_folder(spec.id))
    yield transport
    transport.close()


@pytest.fixture
def core(opened: OverlayTransport, spec: Overlay) -> Core:
    return Core(opened, spec)


class Core:
    """Registers by name, and chains on regions of 4 KiB."""

    def __init__(self, transport: OverlayTransport, spec: Overlay) -> None:
        self.transport, self.spec = transport, spec
        self.regions = [transport.allocate(4096) for _ in range(3)]
        self.set_regions()

    def set_regions(self) -> None:
        """Say where the regions are."""
        for number, buffer in enumerate(self.regions):
            self.write(f"REGION{number}_LOW", buffer.address & 0xFFFFFFFF)
            self.write(f"REGION{number}_HIGH", buffer.address >> 32)
            self.write(f"REGION{number}_BYTES", buffer.nbytes)

    def read(self, name: str) -> int:
        return self.transport.read32(self.spec.register(name))

    def write(self, name: str, value: int) -> None:
        self.transport.write32(self.spec.register(name), value)

    def start(self, *chain: dict[str, int], control: int = 5) -> None:
        self.regions[0].write(0, b"".join(encode(self.spec, values) for values in chain))
        self.write("CONTROL", control)

    def copy(self, words: int = 4) -> list[dict[str, int]]:
        """A chain that copies the start of region 1 to that of region 2."""
        signal = 1 << self.spec.semaphores["LOAD_STORE"]
        return [
            transfer(self.spec, "LOAD", 1, 3, words, signal=signal),
            transfer(self.spec, "STORE", 2, 3, words, wait=signal),
            {"opcode": self.spec.opcodes["END"]},
        ]


def test_registers_tell_which_overlay_it_is(core: Core, spec: Overlay) -> None:
    assert core.read("ID") == ID
    assert core.read("VERSION") == spec.version
    assert core.read("ARRAY") == spec.lanes
    assert core.read("CLOCK_HZ") == spec.clock.hz
    core.write("ID", 1)
    assert core.read("ID") == ID


def test_registers_keep_what_is_written(core: Core) -> None:
    for register in ("REGION3_LOW", "REGION3_BYTES", "WATCHDOG", "CHAIN"):
        core.write(register, 0x1234_5640)
        assert core.read(register) == 0x1234_5640


def test_an_offset_without_a_register_reads_0(opened: OverlayTransport) -> None:
    opened.write32(0xFFC, 5)
    assert opened.read32(0xFFC) == 0


def test_buffers(opened: OverlayTransport) -> None:
    buffers = [opened.allocate(nbytes) for nbytes in (1, 4096, 5000)]
    ends = sorted((buffer.address, buffer.address + buffer.nbytes) for buffer in buffers)
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(ends))
    assert all(buffer.address % 4096 == 0 for buffer in buffers)
    last = buffers[-1]
    last.write(4990, b"0123456789")
    assert last.read(4989, 11)[1:] == b"0123456789"
    for wrong in (
        lambda: last.write(4991, b"0123456789"),
        lambda: last.read(-1, 2),
        lambda: last.read(4999, 2),
    ):
        with pytest.raises(ValueError, match="buffer of 5000"):
            wrong()
    last.close()
    with pytest.raises(ValueError, match="at least one byte"):
        opened.allocate(0)
    with pytest.raises(DeviceError, match="no memory"):
        opened.allocate(1 << 50)


def test_a_chain_moves_bytes_and_interrupts(core: Core, spec: Overlay) -> None:
    data = bytes(range(64)) * 4
    core.regions[1].write(0, data)
    for words in (4, 7):
        core.start(*core.copy(words))
        assert core.transport.wait(10.0)
        assert core.read("STATUS") == DONE
        assert core.regions[2].read(0, words * spec.lanes) == (data * 2)[: words * spec.lanes]
        assert core.read("DESCRIPTORS") == 2
        assert core.read("CYCLES") > 2 * words * spec.lanes // 8
        core.write("STATUS", DONE)
        assert core.read("STATUS") == 0


def test_without_interrupts_enabled_there_is_none(core: Core) -> None:
    core.start(*core.copy(), control=1)
    assert not core.transport.wait(0.05)
    assert core.read("STATUS") & DONE


def test_an_error_has_a_code_and_an_index_and_a_reset_ends_it(core: Core, spec: Overlay) -> None:
    good = core.copy()
    core.start(good[0], good[1] | {"chip": spec.memory.activation_words}, good[2])
    assert core.transport.wait(10.0)
    assert core.read("STATUS") == ERROR | spec.errors["BOUNDS"] << 8
    assert core.read("ERROR_INDEX") == 1
    core.write("CONTROL", 2)
    for _ in range(100):
        if core.read("STATUS") == 0:
            break
    core.set_regions()
    core.start(*good)
    assert core.transport.wait(10.0)
    assert core.read("STATUS") == DONE


def test_the_watchdog_ends_a_chain_that_waits_for_nothing(core: Core, spec: Overlay) -> None:
    core.write("WATCHDOG", 2000)
    core.start(*core.copy()[1:])
    assert core.transport.wait(10.0)
    assert core.read("STATUS") == ERROR | spec.errors["WATCHDOG"] << 8


def test_after_close_it_is_lost(opened: OverlayTransport) -> None:
    opened.close()
    opened.close()
    with pytest.raises(DeviceLost):
        opened.read32(0)
    with pytest.raises(DeviceLost):
        opened.write32(0x20, 1)
    with pytest.raises(DeviceLost):
        opened.allocate(64)


def test_a_folder_without_an_overlay(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("none")
    with pytest.raises(OverlayLoadError, match="holds no overlay"):
        find_transport(name)(folder)
    (folder / "overlay.toml").write_text("id = 1")
    with pytest.raises(OverlayLoadError, match=r"overlay\.toml"):
        find_transport(name)(folder)


# -- the driver on it --------------------------------------------------------------------------------------------------


@pytest.fixture
def segment(spec: Overlay) -> Segment:
    layer, target = conv(3, SOURCE, 24, (3, 2), stride=(2, 1), pads=(1, 0, 1, 1))
    return conv_segment(spec, layer, SOURCE, target)


@pytest.fixture
def answers(segment: Segment) -> Callable[[int], list[object]]:
    def right(seed: int) -> list[object]:
        found: list[object] = run_layers(segment.layers, {"x": image(seed, SOURCE)})["y"][None].tolist()
        return found

    return right


def test_the_driver_runs_programs(
    opened: OverlayTransport, spec: Overlay, segment: Segment, answers: Callable[[int], list[object]]
) -> None:
    driver = Driver(opened, spec)
    loaded = driver.load(handmade.program(spec, segment))
    other = driver.load(handmade.program(spec, segment, name="other"))
    for seed, program in enumerate((loaded, loaded, other, loaded)):
        done = program.run(program.program.steps[0], {"x": image(seed, SOURCE)[None]})  # type: ignore[arg-type]
        assert done.outputs["y"].tolist() == answers(seed)
        assert done.counters.descriptors == 3
        assert len(done.compute_ends) == 1
        assert 0 < done.compute_ends[0] < done.counters.cycles


def test_samples_that_overlap_give_the_same_bytes(
    opened: OverlayTransport, spec: Overlay, segment: Segment, answers: Callable[[int], list[object]]
) -> None:
    made = handmade.program(spec, segment)
    batches = replace(made.inputs[0], shape=(-1, *made.inputs[0].shape[1:]))
    loaded = Driver(opened, spec).load(replace(made, inputs=(batches,)))
    assert loaded.banks == 2

    def no_part(part: Part, tensors: Arrays) -> Arrays:
        raise AssertionError("there is none")

    for seeds in (range(1), range(7, 12), range(3, 5)):
        overlapped = Overlapped(loaded, no_part)
        found = overlapped.run([{"x": image(seed, SOURCE)[None]} for seed in seeds])
        assert [each["y"].tolist() for each in found] == [answers(seed) for seed in seeds]
        times = overlapped.times
        assert times.overlay_s < times.device_s <= times.overlay_s + times.host_s
        assert 0 < times.transfer_s < times.host_s


@pytest.mark.parametrize(
    ("fault", "error"), [("hang", OverlayHung), ("load", DmaTimeout), ("stuck", OverlayHung)]
)
def test_the_driver_ends_what_hangs(
    opened: OverlayTransport, spec: Overlay, segment: Segment, answers: Callable[[int], list[object]],
    fault: str, error: type[DeviceError],
) -> None:  # fmt: skip
    faulty = FaultyTransport(opened, spec)
    loaded = Driver(faulty, spec).load(handmade.program(spec, segment))
    faulty.fault = fault
    with pytest.raises(error):
        loaded.run(segment, {"x": image(1, SOURCE)[None]})
    faulty.fault = ""
    done = loaded.run(segment, {"x": image(2, SOURCE)[None]})
    assert done.outputs["y"].tolist() == answers(2)


@pytest.mark.parametrize("file", ["digits/digits-int8.onnx", "camera-digits/camera-digits-int8.tflite"])
def test_whole_models_give_the_bytes_of_the_golden_model(
    opened: OverlayTransport, spec: Overlay, file: str
) -> None:
    program = compile_model(MODELS / file, spec)
    loaded, golden = Driver(opened, spec).load(program), FunctionalEngine(program)
    rng = np.random.default_rng(1)
    (source,) = program.inputs
    samples = {
        "FP32": rng.random(source.concrete(), np.float32),
        "UINT8": rng.integers(0, 256, source.concrete(), np.uint8),
    }

    def run(segment: Segment, tensors: Arrays) -> Arrays:
        return loaded.run(segment, tensors).outputs

    def run_golden(segment: Segment, tensors: Arrays) -> Arrays:
        return golden.run(segment, tensors)

    def no_part(part: Part, tensors: Arrays) -> Arrays:
        raise AssertionError("nothing of these models stays on the CPU")

    inputs = {source.name: samples[source.dtype]}
    got, wanted = (execute(program, inputs, each, no_part) for each in (run, run_golden))
    assert got.keys() == wanted.keys()
    assert all(np.array_equal(got[name], wanted[name]) for name in got)


# -- what only a bus can do --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("faults", "error"),
    [
        (BusFaults(read_error=0), OverlayFault),
        (BusFaults(write_error=0), OverlayFault),
        (BusFaults(read_hang=4), DmaTimeout),
        (BusFaults(write_hang=0), DmaTimeout),
    ],
    ids=str,
)
def test_the_driver_on_a_bus_that_fails(
    spec: Overlay, segment: Segment, answers: Callable[[int], list[object]], faults: BusFaults,
    error: type[DeviceError], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("agent.overlay.chain.LEAST_CYCLES", 20_000)
    rtl = RtlTransport(spec)
    loaded = Driver(rtl, spec).load(handmade.program(spec, segment))
    loaded.run(segment, {"x": image(1, SOURCE)[None]})
    rtl.inject(faults)
    with pytest.raises(error):
        loaded.run(segment, {"x": image(1, SOURCE)[None]})
    rtl.inject(BusFaults())
    done = loaded.run(segment, {"x": image(2, SOURCE)[None]})
    assert done.outputs["y"].tolist() == answers(2)
    rtl.close()
