"""The transport ``pynq``: unmodified PYNQ, our transport and driver, and a simulated overlay as the FPGA."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pynq
import pytest
from pynq.pl_server import global_state

from agent.devices import pynq_transport
from agent.devices.pynq_transport import PynqTransport, open_transport
from agent.errors import DeviceError, OverlayLoadError, RuntimeUnavailable
from agent.hal import OverlayTransport
from agent.overlay.driver import Driver
from agent.overlay.spec import ID, Overlay, load_spec
from simulator.overlay.functional import FunctionalTransport
from tests.pynq.board import RAW_IRQ, UNFLUSHED, Board
from tests.pynq.conftest import QUIET, make_release
from tests.pynq.handoff import CORE_BASE, INTC_BASE, Design, handoff, write_release
from tests.unit.overlay import handmade

pytestmark = QUIET
NPU = load_spec("npu")


def outputs(transport: OverlayTransport, spec: Overlay) -> Any:
    """What the driver computes for one convolution."""
    source = handmade.tensor("x", 12, 9, 7)
    layer, target = handmade.conv(1, source, 20, (3, 3), pads=(1, 1, 1, 1))
    segment = handmade.conv_segment(spec, layer, source, target)
    driver = Driver(transport, spec)
    loaded = driver.load(handmade.program(spec, segment))
    done = loaded.run(segment, {"x": handmade.image(2, source)[None]})
    assert done.counters.cycles > 0
    driver.close()
    return done.outputs["y"]


@pytest.mark.parametrize("wired", [True, False], ids=["interrupt", "polling"])
def test_a_program_gives_the_same_bytes(board: Board, tmp_path: Path, wired: bool) -> None:
    folder = make_release(tmp_path / "npu", Design("npu", wired=wired))
    transport = open_transport(folder)
    assert isinstance(transport, PynqTransport)
    found = outputs(transport, NPU)
    np.testing.assert_array_equal(found, outputs(FunctionalTransport(NPU), NPU))
    assert len(np.unique(found)) > 20
    if board.core_name == "rtl":  # the functional core has ended before anybody waits
        assert (pynq.interrupt._InterruptController._uio_devices[RAW_IRQ].waits > 0) == wired


@pytest.mark.parametrize("simulated", ["functional"], indirect=True)
class TestOneCore:
    """What does not depend on how the core is simulated."""

    def test_pynq_alone_reaches_the_core(self, board: Board, release: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            overlay = pynq.Overlay(str(release / "release" / "npu-pynq-z2.bit"), download=False)
        overlay.clock_dict = {}
        overlay.download()
        block = overlay.ip_dict["npu_0"]
        registers = pynq.MMIO(block["phys_addr"], block["addr_range"])
        assert (block["phys_addr"], registers.read(0)) == (CORE_BASE, ID)
        assert registers.read(NPU.register("ARRAY")) == 16
        memory = pynq.allocate((8,), "u1")
        memory[:] = 7
        memory.flush()
        assert memory.device_address % 4096 == 0
        memory.freebuffer()

    def test_the_clock_is_that_of_the_overlay(self, board: Board, release: Path) -> None:
        open_transport(release)
        assert pynq.Clocks.fclk0_mhz == NPU.clock.hz / 1e6

    def test_a_swap_changes_the_core(self, board: Board, tmp_path: Path) -> None:
        big = make_release(tmp_path / "npu", Design("npu"))
        small = make_release(tmp_path / "npu-small", Design("npu-small", base=0x4001_0000))
        for folder, lanes in ((big, 16), (small, 8), (big, 16)):
            transport = open_transport(folder)
            assert transport.read32(NPU.register("ARRAY")) == lanes
            spec = load_spec(folder.name)
            np.testing.assert_array_equal(outputs(transport, spec), outputs(FunctionalTransport(spec), spec))

    def test_a_handoff_that_changed_is_read_again(self, board: Board, release: Path) -> None:
        """PYNQ issue 1409: the bitstream has the bytes of the one before, so pynq takes the metadata of that."""
        open_transport(release).close()
        bit = release / "release" / "npu-pynq-z2.bit"
        moved = Design("npu", base=0x4002_0000)
        bit.with_suffix(".hwh").write_bytes(handoff(moved))
        stale = pynq.Overlay(str(bit), download=False)
        assert stale.ip_dict["npu_0"]["phys_addr"] == CORE_BASE  # what makes us drop it
        write_release(bit.parent, moved, bit.stem)
        assert open_transport(release).read32(0) == ID
        assert board.base == 0x4002_0000

    def test_metadata_of_another_bitstream_is_dropped(self, board: Board, tmp_path: Path) -> None:
        """PYNQ issue 1652: a process that ended between pynq's two files leaves the hash of one load with the
        metadata of another."""
        first = make_release(tmp_path / "npu", Design("npu"))
        second = make_release(tmp_path / "npu-small", Design("npu-small", base=0x4001_0000))
        pickled = Path(global_state.__file__).with_name("_current_metadata.pkl")
        open_transport(first).close()
        old = pickled.read_bytes()
        open_transport(second).close()
        pickled.write_bytes(old)
        bit = str(second / "release" / "npu-small-pynq-z2.bit")
        assert pynq.Overlay(bit, download=False).ip_dict["npu_0"]["phys_addr"] == CORE_BASE
        assert open_transport(second).read32(NPU.register("ARRAY")) == 8
        assert pickle.loads(pickled.read_bytes()).ip_dict["npu_0"]["phys_addr"] == 0x4001_0000

    def test_memory_is_flushed_and_invalidated(self, board: Board, release: Path) -> None:
        transport = open_transport(release)
        buffer = transport.allocate(5000)
        assert (buffer.address % 4096, buffer.nbytes) == (0, 5000)
        buffer.write(10, b"abc")
        assert board.core is not None
        far = board.core._core.memory.at(buffer.address, 16)  # type: ignore[attr-defined]
        assert far is not None
        assert far.tobytes()[9:14] != bytes([UNFLUSHED, *b"abc", UNFLUSHED])
        assert far.tobytes()[10:13] == b"abc"
        far[11] = ord("X")
        assert buffer.read(10, 3) == b"aXc"
        for offset, nbytes in ((-1, 1), (4999, 2), (0, 5001)):
            with pytest.raises(ValueError, match="not in a buffer of 5000"):
                buffer.read(offset, nbytes)
        buffer.close()
        buffer.close()
        with pytest.raises(ValueError, match="closed"):
            buffer.read(0, 1)

    def test_closing_frees_every_buffer(self, board: Board, release: Path) -> None:
        transport = open_transport(release)
        transport.allocate(4096)
        transport.allocate(1 << 20)
        assert board.core is not None
        memory = board.core._core.memory  # type: ignore[attr-defined]
        assert memory.used == 4096 + (1 << 20)
        transport.close()
        assert memory.used == 0

    def test_memory_of_a_core_that_does_not_stop_stays_reserved(
        self, board: Board, release: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        transport = open_transport(release)
        transport.allocate(4096)
        assert board.core is not None
        machine = board.core._core  # type: ignore[attr-defined]
        monkeypatch.setattr(machine, "read32", lambda offset: 1)
        monkeypatch.setattr(pynq_transport, "STOP_S", 0.01)
        transport.close()
        assert machine.memory.used == 4096
        open_transport(release)
        assert machine.memory.used == 0

    def test_waiting_ends(self, board: Board, release: Path) -> None:
        transport = open_transport(release)
        assert transport.wait(0.01) is False
        assert transport.compute_ends() == ()
        for offset in (-4, 2, 4096):
            with pytest.raises(ValueError, match="no register"):
                transport.read32(offset)

    def test_too_much_memory(self, board: Board, release: Path) -> None:
        with pytest.raises(DeviceError, match=r"no memory for \d+ contiguous bytes: BO alloc.*cma="):
            open_transport(release).allocate(256 << 20)

    def test_what_is_not_the_core_is_refused(self, board: Board, tmp_path: Path) -> None:
        folder = make_release(tmp_path / "npu", Design("npu", core="axi_gpio"))
        with pytest.raises(
            OverlayLoadError, match="one block of type npu is needed, there are 0 among: axi_intc_0"
        ):
            open_transport(folder)

    def test_a_core_with_another_id_is_refused(
        self, board: Board, release: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(FunctionalTransport, "read32", lambda self, offset: 0xDEADBEEF)
        with pytest.raises(OverlayLoadError, match="answers 0xdeadbeef for its ID instead of 0x4f564c4e"):
            open_transport(release)

    @pytest.mark.parametrize(
        ("refusal", "error", "text"),
        [
            (PermissionError(13, "Permission denied"), RuntimeUnavailable, "overlaid-fpga.service"),
            (OSError("Root permissions required."), RuntimeUnavailable, "overlaid-fpga.service"),
            (OSError(5, "Input/output error"), OverlayLoadError, "cannot be loaded: OSError.*see dmesg"),
            (RuntimeError("Invalid length found"), OverlayLoadError, "RuntimeError: Invalid length found"),
        ],
    )
    def test_what_the_kernel_refuses(
        self, board: Board, release: Path, refusal: Exception, error: type[Exception], text: str
    ) -> None:
        board.refusal = refusal
        with pytest.raises(error, match=text):
            open_transport(release)
        board.refusal = None
        assert open_transport(release).read32(0) == ID

    def test_a_truncated_bitstream(self, board: Board, release: Path) -> None:
        bit = release / "release" / "npu-pynq-z2.bit"
        bit.write_bytes(bit.read_bytes()[:-8])
        with pytest.raises(OverlayLoadError, match="cannot be loaded: RuntimeError: Invalid length"):
            open_transport(release)

    def test_a_handoff_that_is_no_xml(self, board: Board, release: Path) -> None:
        path = release / "release" / "npu-pynq-z2.hwh"
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(OverlayLoadError, match="cannot be loaded: ParseError"):
            open_transport(release)


def test_no_board(xrt: None, release: Path) -> None:
    with pytest.raises(RuntimeUnavailable, match="PYNQ finds no FPGA: No Devices Found"):
        open_transport(release)


def test_the_interrupt_controller_is_where_the_handoff_says() -> None:
    assert f"{INTC_BASE:#010X}".replace("X", "x").encode() in handoff(Design("npu"))
