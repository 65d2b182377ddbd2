"""The guard between an unprivileged client and the core's physical addresses."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from agent.devices.fpga_service.guard import BUSY, DONE, ERROR, SOFT_RESET, START, Guard
from agent.errors import DeviceError, OverlayLoadError
from agent.overlay.spec import Register, load_spec

SPEC = load_spec("npu")
CONTROL, STATUS = SPEC.register("CONTROL"), SPEC.register("STATUS")
FIRST, SECOND = (0x1_0000_0000, 8192), (0x2000_0000, 4096)  # above and below 4 GiB


class Core:
    """A guard, and the registers behind it."""

    def __init__(self, *buffers: tuple[int, int]) -> None:
        self.guard = Guard(SPEC)
        self.buffers: Sequence[tuple[int, int]] = buffers or (FIRST, SECOND)
        self.status = 0
        self.writes: list[tuple[int, int]] = []

    def write(self, offset: int, value: int) -> None:
        self.writes += self.guard.write(offset, value, self.buffers, lambda: self.status)

    def region(self, number: int, base: int, nbytes: int, order: str = "LHB") -> None:
        parts = {"L": ("LOW", base & 0xFFFFFFFF), "H": ("HIGH", base >> 32), "B": ("BYTES", nbytes)}
        for part in order:
            name, value = parts[part]
            self.write(SPEC.register(f"REGION{number}_{name}"), value)

    def start(self) -> None:
        self.write(CONTROL, START)

    def started(self) -> bool:
        return (CONTROL, START) in self.writes

    def held(self, name: str) -> int:
        """What the core has."""
        return dict(self.writes).get(SPEC.register(name), 0)


@pytest.mark.parametrize("order", ["LHB", "BHL", "HLB", "HBL"])
def test_regions_reach_the_core_with_the_start(order: str) -> None:
    core = Core()
    core.region(0, FIRST[0], FIRST[1], order)
    core.region(2, SECOND[0] + 64, SECOND[1] - 64, order)
    assert core.writes == []
    core.start()
    assert core.writes[-1] == (CONTROL, START)
    regions = {f"REGION{n}_{part}" for n in range(4) for part in ("LOW", "HIGH", "BYTES")}
    written = {offset for offset, _ in core.writes[:-1]}
    assert written == {SPEC.register(name) for name in regions | {"CHAIN", "WATCHDOG"}}
    assert core.held("WATCHDOG") == SPEC.axi.watchdog_cycles
    assert (core.held("REGION0_LOW"), core.held("REGION0_HIGH"), core.held("REGION0_BYTES")) == (0, 1, 8192)
    assert (core.held("REGION2_LOW"), core.held("REGION2_BYTES")) == (0x2000_0040, 4032)


@pytest.mark.parametrize(
    ("base", "nbytes"),
    [
        (0, 4096),  # where the kernel may lie
        (FIRST[0] - 64, 128),
        (FIRST[0], FIRST[1] + 1),
        (FIRST[0] + FIRST[1], 1),
        (FIRST[0] & 0xFFFFFFFF, 64),  # the high word left out
        (SECOND[0] | FIRST[0], 64),  # low and high word of different buffers
        (SECOND[0], 0xFFFFFFFF),
        (0xFFFFFFFF_FFFFFFC0, 0x80),  # wraps around
        (FIRST[0] + 8, 64),  # the core would take the low bits for zero
        (0x3000_0000, 0),  # no bytes, but a place
    ],
)
def test_memory_of_others_is_refused(base: int, nbytes: int) -> None:
    core = Core()
    core.region(0, FIRST[0], 4096)
    core.region(3, base, nbytes)
    with pytest.raises(DeviceError, match=r"region 3 .* does not lie in a buffer of this client"):
        core.start()
    assert core.writes == []


def test_a_region_does_not_span_two_buffers() -> None:
    core = Core((0x1000_0000, 4096), (0x1000_1000, 4096))
    core.region(0, 0x1000_0000, 8192)
    with pytest.raises(DeviceError, match="region 0"):
        core.start()


def test_a_good_half_cannot_be_followed_by_a_bad_one() -> None:
    core = Core()
    core.region(0, FIRST[0], 64)
    core.start()
    core.status = BUSY
    core.write(SPEC.register("REGION0_LOW"), 0x1000)  # while the core runs
    core.write(SPEC.register("REGION0_HIGH"), 0)
    assert (core.held("REGION0_LOW"), core.held("REGION0_HIGH")) == (FIRST[0] & 0xFFFFFFFF, 1)
    with pytest.raises(DeviceError, match="the core is running"):
        core.start()
    core.status = DONE
    with pytest.raises(DeviceError, match="region 0"):
        core.start()
    assert [value for offset, value in core.writes if offset == CONTROL] == [START]


def test_a_freed_buffer_is_no_longer_a_place() -> None:
    core = Core()
    core.region(1, SECOND[0], 64)
    core.start()
    core.status, core.buffers = DONE, (FIRST,)
    with pytest.raises(DeviceError, match="region 1"):
        core.start()


def test_a_reset_forgets_regions_and_is_not_a_start() -> None:
    core = Core()
    core.region(0, FIRST[0], 64)
    with pytest.raises(DeviceError, match="start and soft reset in one write"):
        core.write(CONTROL, START | SOFT_RESET)
    core.write(CONTROL, SOFT_RESET)
    assert core.guard.held(SPEC.register("REGION0_BYTES")) == 0
    core.start()
    assert core.held("REGION0_HIGH") == 0
    assert core.started()


def test_what_can_be_read_back() -> None:
    core = Core()
    core.region(2, 0x12345678_9ABCDEF0, 7)
    held = [core.guard.held(SPEC.register(f"REGION2_{part}")) for part in ("LOW", "HIGH", "BYTES")]
    assert held == [0x9ABCDEF0, 0x12345678, 7]
    assert core.guard.held(STATUS) is None
    for offset in (0x1000, 0x1040, 2, 0xFFFF_FFFC):
        with pytest.raises(DeviceError, match="no register"):
            core.guard.held(offset)


@pytest.mark.parametrize("offset", [0x840, 0x1040, 0x3C, 0x41, SPEC.register("ID"), SPEC.register("CYCLES")])
def test_other_registers_are_not_written(offset: int) -> None:
    """Also where a core that decodes few address bits would take them for a region's."""
    core = Core()
    if offset < 0x1000 and offset % 4 == 0:
        core.write(offset, 0x1000)
    else:
        with pytest.raises(DeviceError, match="no register"):
            core.write(offset, 0x1000)
    assert core.writes == []


def test_unknown_control_bits_do_not_reach_the_core() -> None:
    core = Core()
    core.write(CONTROL, 0xFFFF_FFF8)
    core.write(CONTROL, 0xFFFF_FFF9)
    assert [value for offset, value in core.writes if offset == CONTROL] == [0, 1]


def test_when_the_core_is_at_rest() -> None:
    core = Core()
    guard = core.guard
    assert guard.at_rest
    core.start()
    for status in (BUSY, 0, ERROR, DONE | ERROR, BUSY | DONE):
        guard.see(status)
        assert not guard.at_rest
    core.status = ERROR
    core.write(STATUS, DONE | ERROR)  # acknowledged, but transfers may be under way
    assert not guard.at_rest
    core.write(CONTROL, SOFT_RESET)
    guard.see(BUSY)
    assert not guard.at_rest
    guard.see(0)
    assert guard.at_rest
    core.start()
    core.status = DONE
    core.write(STATUS, DONE)  # seen before the write clears it
    core.status = 0
    assert guard.at_rest


def test_an_overlay_with_other_registers_is_refused() -> None:
    moved = dict(SPEC.registers) | {"REGION0_LOW": Register(offset=0x200, access="rw")}
    with pytest.raises(OverlayLoadError, match=r"other registers than overlaid-fpga.service knows"):
        Guard(SPEC.model_copy(update={"registers": moved}))


def test_random_writes_never_let_the_core_leave_the_buffers() -> None:
    rng = random.Random(4)
    numbers = [0, 1, 64, 4096, 8192, 0x2000_0000, 0x2000_1000, 0xFFFFFFFF, START, SOFT_RESET]
    offsets = [*range(0x20, 0x80, 4), CONTROL, CONTROL]
    core = Core()
    starts = 0
    for _ in range(20_000):
        before = len(core.writes)
        core.status = rng.choice([0, BUSY, DONE, ERROR])
        try:
            core.write(rng.choice(offsets), rng.choice(numbers))
        except DeviceError:
            continue
        if any(offset == CONTROL and value & START for offset, value in core.writes[before:]):
            starts += 1
            for number in range(4):
                low, high, nbytes = (core.held(f"REGION{number}_{part}") for part in ("LOW", "HIGH", "BYTES"))
                base = high << 32 | low
                inside = any(a <= base and base + nbytes <= a + size for a, size in core.buffers)
                assert inside or (base, nbytes) == (0, 0)
    assert starts > 5
