"""The model of memory and bus around the core, by a core that does on the bus what it is told (rogue/npu_top.sv)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.errors import DeviceError, DeviceLost, OverlayFault, OverlayLoadError
from agent.hal import Buffer
from agent.overlay.spec import Overlay, load_spec
from simulator.overlay import build, rtl
from simulator.overlay.rtl import BusFaults, Ddr, RtlTransport

ADDRESS, DATA, WHAT, ANSWER, LAST, CONTROL = 0x40, 0x44, 0x48, 0x4C, 0x50, 0x20
NO_REGISTER = 0xFFC
OKAY, SLAVE_ERROR, DECODE_ERROR = 0, 2, 3
WAIT_S = 0.0  # some 20,000 cycles


@pytest.fixture
def npu() -> Overlay:
    return load_spec("npu")


@dataclass(frozen=True, slots=True)
class Rogue:
    transport: RtlTransport
    buffer: Buffer

    def burst(
        self, offset: int = 0, *, beats: int = 16, size: int = 3, kind: int = 1, write: bool = False,
        withdraw: bool = False, last: int | None = None, strobes: int = 0xFF, data: int = 0,
    ) -> bool:  # fmt: skip
        """One burst from ``offset`` of the buffer on. Whether it was answered."""
        last = beats - 1 if last is None else last
        what = beats - 1 | size << 8 | kind << 11 | write << 13 | withdraw << 14 | last << 16 | strobes << 24
        for register, value in (
            (ADDRESS, self.buffer.address + offset),
            (DATA, data),
            (WHAT, what),
            (CONTROL, 1),
        ):
            self.transport.write32(register, value)
        return self.transport.wait(WAIT_S)

    @property
    def answer(self) -> int:
        return self.transport.read32(ANSWER)


@pytest.fixture
def make(npu: Overlay, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Ddr], Rogue]]:
    monkeypatch.setattr(build, "RTL", Path(__file__).parent / "rogue")
    made: list[RtlTransport] = []

    def open_rogue(ddr: Ddr) -> Rogue:
        made.append(RtlTransport(npu, ddr))
        return Rogue(made[-1], made[-1].allocate(4096))

    yield open_rogue
    for transport in made:
        transport.close()


@pytest.fixture
def rogue(make: Callable[[Ddr], Rogue]) -> Rogue:
    return make(Ddr())


def test_bursts_read_and_write_memory(rogue: Rogue) -> None:
    rogue.buffer.write(0, bytes(range(128)))
    assert rogue.burst()
    assert (rogue.answer, rogue.transport.read32(LAST)) == (OKAY, 0x7F7E7D7C)
    assert rogue.burst(8, beats=2, write=True, data=0x04030201)
    first, second = (bytes([beat, 0, 0, 0, 1, 2, 3, 4]) for beat in range(2))
    assert rogue.buffer.read(0, 128) == bytes(range(8)) + first + second + bytes(range(24, 128))


def test_strobes_choose_bytes(rogue: Rogue) -> None:
    rogue.buffer.write(0, bytes(16))
    assert rogue.burst(beats=1, write=True, data=0x44332211, strobes=0b1010_0000)
    assert rogue.buffer.read(0, 16) == bytes([0, 0, 0, 0, 0, 0x22, 0, 0x44]) + bytes(8)


@pytest.mark.parametrize(
    ("bursts", "latency"), [({}, 40), ({}, 7), ({"write": True}, 3), ({"write": True}, 50)]
)
def test_latency(make: Callable[[Ddr], Rogue], bursts: dict[str, bool], latency: int) -> None:
    """One beat a cycle, after the latency: cycles from burst to answer against those of no latency."""
    took = []
    for cycles in (1, latency):
        rogue = make(Ddr(read_latency=cycles, write_latency=cycles))
        before = rogue.transport.cycles
        assert rogue.burst(**bursts)
        took.append(rogue.transport.cycles - before)
    assert took[1] - took[0] == latency - 1


def test_stalls_take_time_and_change_nothing(make: Callable[[Ddr], Rogue]) -> None:
    took, seen = [], []
    for ddr in (Ddr(), Ddr(stall_permille=500, seed=1), Ddr(stall_permille=500, seed=2)):
        rogue = make(ddr)
        rogue.buffer.write(0, bytes(range(256)))
        before = rogue.transport.cycles
        for offset in range(0, 256, 128):
            assert rogue.burst(offset, write=True, data=5)
            assert rogue.burst(offset)
        took.append(rogue.transport.cycles - before)
        seen.append(rogue.buffer.read(0, 256))
    assert took[0] < min(took[1:])
    assert took[1] != took[2]
    assert seen[0] == seen[1] == seen[2]


def test_ends_are_counted_from_the_start(rogue: Rogue) -> None:
    """Here every answer to a write is an end."""
    for _ in range(2):
        rogue.burst(write=True)
        (end,) = rogue.transport.compute_ends()
        assert 16 + 10 < end < 16 + 10 + 10


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize(
    ("burst", "rule"),
    [
        ({"beats": 17}, "more than 16 beats"),
        ({"offset": 4, "beats": 1}, "multiple of 8"),
        ({"offset": 8}, "across a 128-byte block"),
        ({"offset": 120, "beats": 2}, "across a 128-byte block"),
        ({"size": 2}, "8-byte beats"),
        ({"kind": 0}, "not INCR"),
    ],
)
def test_bursts_against_the_rules(rogue: Rogue, burst: dict[str, int], write: bool, rule: str) -> None:
    with pytest.raises(OverlayFault, match=rule):
        rogue.burst(**burst, write=write)  # type: ignore[arg-type]


@pytest.mark.parametrize("last", [0, 14, 16])
def test_wlast_on_the_wrong_beat(rogue: Rogue, last: int) -> None:
    with pytest.raises(OverlayFault, match="WLAST"):
        rogue.burst(write=True, last=last)


@pytest.mark.parametrize("write", [False, True])
def test_withdrawn_address(make: Callable[[Ddr], Rogue], write: bool) -> None:
    rogue = make(Ddr(stall_permille=900))
    with pytest.raises(OverlayFault, match="withdrawn"):
        for _ in range(100):  # until it has to wait
            rogue.burst(write=write, withdraw=True)


def test_memory_that_is_not_there(rogue: Rogue) -> None:
    before = rogue.buffer.read(0, 4096)
    for offset in (4096, -128):
        for write in (False, True):
            assert rogue.burst(offset, write=write)
            assert rogue.answer == DECODE_ERROR
    assert rogue.buffer.read(0, 4096) == before


def test_memory_that_was_freed(rogue: Rogue) -> None:
    other = rogue.transport.allocate(4096)
    offset = other.address - rogue.buffer.address
    assert rogue.burst(offset) and rogue.answer == OKAY
    other.close()
    assert rogue.burst(offset) and rogue.answer == DECODE_ERROR


@pytest.mark.parametrize("write", [False, True])
def test_injected_errors(rogue: Rogue, write: bool) -> None:
    rogue.buffer.write(0, bytes(128))
    rogue.transport.inject(BusFaults(write_error=1) if write else BusFaults(read_error=1))
    answers = []
    for data in range(1, 4):
        assert rogue.burst(write=write, data=data)
        answers.append((rogue.answer, rogue.buffer.read(4, 1)[0]))
    assert answers == [(OKAY, write), (SLAVE_ERROR, write), (OKAY, 3 * write)]


@pytest.mark.parametrize("write", [False, True])
def test_injected_hangs(rogue: Rogue, write: bool) -> None:
    rogue.transport.inject(BusFaults(write_hang=1) if write else BusFaults(read_hang=1))
    assert rogue.burst(write=write)
    assert not rogue.burst(write=write)
    rogue.transport.inject(BusFaults())
    assert rogue.transport.wait(WAIT_S)


def test_register_that_does_not_answer(rogue: Rogue) -> None:
    with pytest.raises(DeviceLost, match="0xFFC"):
        rogue.transport.read32(NO_REGISTER)


def test_after_close_there_is_nothing(rogue: Rogue) -> None:
    rogue.transport.close()
    rogue.transport.close()
    rogue.buffer.close()
    for use in (
        lambda: rogue.transport.read32(ANSWER), lambda: rogue.transport.write32(DATA, 1),
        lambda: rogue.transport.wait(0), lambda: rogue.transport.allocate(8), rogue.transport.compute_ends,
    ):  # fmt: skip
        with pytest.raises(DeviceLost):
            use()


def test_more_memory_than_there_is(rogue: Rogue) -> None:
    with pytest.raises(DeviceError, match="no memory"):
        rogue.transport.allocate(1 << 40)


def test_overlay_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OverlayLoadError, match="holds no overlay"):
        rtl.open_transport(tmp_path)


def test_library_that_is_spoilt_is_removed(
    npu: Overlay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the next one who asks makes it anew."""
    spoilt = tmp_path / "library"
    spoilt.write_bytes(b"no library")
    monkeypatch.setattr(rtl, "library", lambda _spec, _progress: spoilt)
    with pytest.raises(OverlayLoadError, match="try again"):
        RtlTransport(npu)
    assert not spoilt.exists()


def test_rtl_that_does_not_compile(npu: Overlay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "npu_top.sv").write_text("module npu_top; wrong endmodule\n")
    monkeypatch.setattr(build, "RTL", tmp_path)
    with pytest.raises(OverlayLoadError, match=r"verilator.*failed"):
        RtlTransport(npu)
