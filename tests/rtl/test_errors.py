"""Bad chains and bad memory end in the error status that overlay.toml names, and a soft reset brings the core back.

What an executor can see without time is the same on the functional model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from agent.overlay.spec import DESCRIPTOR_BYTES, Overlay
from simulator.overlay.functional import FunctionalTransport
from simulator.overlay.rtl import BusFaults, Ddr, RtlTransport
from tests.rtl.core import BUSY, DONE, ERROR, RESET, START, Core, Result, Values, assemble, semaphore
from tests.rtl.descriptors import NO_PADS, Case, random_case

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of scales that are no numbers
AT = 2  # the descriptor of a chain that is replaced by a bad one: the first after both loads
WATCHDOG = 60_000  # cycles, longer than any descriptor here takes
Make = Callable[[Overlay], Values]


@dataclass(frozen=True, slots=True)
class Bench:
    """A core with a chain that it runs well, and the bytes that this gives."""

    core: Core
    case: Case
    expected: bytes
    transport: RtlTransport

    @property
    def spec(self) -> Overlay:
        return self.core.spec

    def run(self, bad: Values | None = None, at: int = AT) -> Result:
        """The chain, with one descriptor replaced."""
        chain = list(self.case.chain)
        if bad is not None:
            chain[at] = bad
        self.core.place(2, bytes(len(self.case.activations)))
        return self.core.run(chain, WATCHDOG)

    def works(self) -> None:
        """The chain runs as if nothing had been before."""
        result = self.run()
        assert (result.error, result.interrupted) == ("", True)
        assert self.core.output() == self.expected
        assert self.core.read("STATUS") == DONE

    def fails(self, bad: Values, error: str, at: int = AT) -> None:
        """With the bad descriptor it stops, says where, and works again after a reset."""
        result = self.run(bad, at)
        assert (result.error, result.index, result.interrupted) == (error, at, True)
        self.core.reset()
        self.works()


@pytest.fixture(params=["functional", "rtl"])
def bench(request: pytest.FixtureRequest, spec: Overlay) -> Iterator[Bench]:
    """On every executor."""
    yield from opened(spec, request.param)


@pytest.fixture
def rtl(spec: Overlay) -> Iterator[Bench]:
    yield from opened(spec, "rtl")


def opened(spec: Overlay, executor: str) -> Iterator[Bench]:
    case = random_case(spec, 7, 3)
    functional = Core(FunctionalTransport(spec), spec)
    rtl = RtlTransport(spec, Ddr(stall_permille=100))
    core = Core(rtl, spec) if executor == "rtl" else functional
    for each in {functional, core}:
        each.place(0, case.program)
        each.place(1, case.activations)
        each.place(2, bytes(len(case.activations)))
    functional.run(case.chain)
    yield Bench(core, case, functional.output(), rtl)
    rtl.close()


def compute(opcode: str, **other: int) -> Make:
    """A descriptor of eight words or pixels that is in order but for ``other``."""

    def make(spec: Overlay) -> Values:
        v = {"opcode": spec.opcodes[opcode], "count_f": 8, "step_f": 1, "out_base": 100, **NO_PADS}
        if opcode == "DEPTHWISE":
            v |= {"count_e": 3, "stride_y": 1, "stride_x": 1}
        if opcode == "ADD":
            v |= {"count_f": 2, "count_e": 8, "step_e": 1, "ratio_a": 1, "ratio_b": 1, "shift": 16}
        return v | {"wait": semaphore(spec, "LOAD_COMPUTE")} | other

    return make


def transfer(opcode: str, **other: int) -> Make:
    """A transfer of 16 words that is in order but for ``other``."""

    def make(spec: Overlay) -> Values:
        v = {"opcode": spec.opcodes[opcode], "region": 1 if opcode == "LOAD" else 2, "runs": 1, "words": 16}
        return v | other

    return make


def of(change: Callable[[Overlay], Values], base: Make) -> Make:
    """With fields that depend on the overlay's sizes."""
    return lambda spec: {**base(spec), **change(spec)}


CONV, DEPTHWISE, POOL, ADD = (compute(opcode) for opcode in ("CONV", "DEPTHWISE", "POOL", "ADD"))
LOAD, STORE = transfer("LOAD"), transfer("STORE")
BAD: dict[str, tuple[str, Make]] = {
    "pixels of CONV": (
        "TILE",
        of(lambda s: {"count_f": s.memory.accumulators, "count_e": 2, "step_f": 0}, CONV),
    ),
    "row of DEPTHWISE": ("TILE", of(lambda s: {"count_f": s.memory.line_words + 1}, DEPTHWISE)),
    "pixels that DEPTHWISE keeps": (
        "TILE",
        of(
            lambda s: {
                "count_e": s.memory.accumulators // 128 + 3,
                "count_f": 130,
                "step_f": 0,
                "flags": s.flags["PARTIAL"],
            },
            DEPTHWISE,
        ),
    ),
    "operands of ADD": ("OPCODE", compute("ADD", count_f=3)),
    "input of CONV": ("BOUNDS", of(lambda s: {"in_base": s.memory.activation_words - 7}, CONV)),
    "input of CONV before the memory": ("BOUNDS", compute("CONV", in_base=-1)),
    "input of a later pass": (
        "BOUNDS",
        of(lambda s: {"count_d": 2, "step_d": s.memory.activation_words - 7}, CONV),
    ),
    "input of packed CONV": (
        "BOUNDS",
        of(
            lambda s: {"in_base": s.memory.activation_words * s.lanes // 4 - 8, "flags": s.flags["PACKED"]},
            CONV,
        ),
    ),
    "input of DEPTHWISE": ("BOUNDS", of(lambda s: {"in_base": s.memory.activation_words - 7}, DEPTHWISE)),
    "input of POOL": ("BOUNDS", of(lambda s: {"in_base": s.memory.activation_words - 7}, POOL)),
    "operand of ADD": ("BOUNDS", of(lambda s: {"step_f": s.memory.activation_words - 7}, ADD)),
    "output of CONV": ("BOUNDS", of(lambda s: {"out_base": s.memory.activation_words - 7}, CONV)),
    "later output of CONV": (
        "BOUNDS",
        of(lambda s: {"count_a": 3, "out_step": s.memory.activation_words // 2}, CONV),
    ),
    "output of DEPTHWISE": ("BOUNDS", of(lambda s: {"out_base": s.memory.activation_words - 5}, DEPTHWISE)),
    "output of POOL": ("BOUNDS", of(lambda s: {"out_base": s.memory.activation_words}, POOL)),
    "output of ADD": ("BOUNDS", of(lambda s: {"out_base": s.memory.activation_words - 7}, ADD)),
    "parameters": ("BOUNDS", of(lambda s: {"weight_row": s.memory.weight_rows - 3}, POOL)),
    "weights of CONV": ("BOUNDS", of(lambda s: {"weight_row": s.memory.weight_rows - 3 - s.pass_rows}, CONV)),
    "weights of a later pass": (
        "BOUNDS",
        of(lambda s: {"weight_row": s.memory.weight_rows - 4 - 2 * s.pass_rows, "count_c": 3}, CONV),
    ),
    "weights of DEPTHWISE": ("BOUNDS", of(lambda s: {"weight_row": s.memory.weight_rows - 8}, DEPTHWISE)),
    "LOAD of no words": ("BOUNDS", transfer("LOAD", words=0)),
    "LOAD of no runs": ("BOUNDS", transfer("LOAD", runs=0)),
    "LOAD at an odd offset": ("BOUNDS", transfer("LOAD", offset=4)),
    "LOAD with an odd step": ("BOUNDS", transfer("LOAD", runs=2, region_step=260)),
    "LOAD after the region": (
        "BOUNDS",
        of(lambda s: {"offset": s.memory.activation_words * s.lanes - 8}, LOAD),
    ),
    "LOAD far after the region": ("BOUNDS", transfer("LOAD", offset=0xFFFFFFF8)),
    "later run of LOAD after the region": ("BOUNDS", transfer("LOAD", runs=3, region_step=0x7FFFFFF8)),
    "LOAD from a region that is not there": ("BOUNDS", transfer("LOAD", region=3)),
    "LOAD after the activation memory": (
        "BOUNDS",
        of(lambda s: {"chip": s.memory.activation_words - 15}, LOAD),
    ),
    "later run of LOAD after the memory": ("BOUNDS", transfer("LOAD", runs=4, chip_step=0x7000)),
    "LOAD after the weight memory": (
        "BOUNDS",
        of(lambda s: {"chip": 2 * s.memory.weight_rows - 15, "flags": s.flags["WEIGHTS"]}, LOAD),
    ),
    "STORE of no words": ("BOUNDS", transfer("STORE", words=0)),
    "STORE at an odd offset": ("BOUNDS", transfer("STORE", offset=2)),
    "STORE after the region": (
        "BOUNDS",
        of(lambda s: {"offset": s.memory.activation_words * s.lanes - 8}, STORE),
    ),
    "later run of STORE after the region": ("BOUNDS", transfer("STORE", runs=3, region_step=0x7FFFFFF8)),
    "STORE into a region that is not there": ("BOUNDS", transfer("STORE", region=3)),
    "STORE after the activation memory": (
        "BOUNDS",
        of(lambda s: {"chip": s.memory.activation_words - 15}, STORE),
    ),
    "later run of STORE after the memory": ("BOUNDS", transfer("STORE", runs=4, chip_step=0x7000)),
}


def test_a_good_chain_runs_again_and_again(bench: Bench) -> None:
    bench.works()
    bench.works()


@pytest.mark.parametrize("what", BAD)
def test_bad_descriptor(bench: Bench, what: str) -> None:
    error, make = BAD[what]
    bench.fails(make(bench.spec), error)


@pytest.mark.parametrize("make", [CONV, DEPTHWISE, POOL, ADD, LOAD, STORE])
def test_what_the_bad_ones_are_made_from_is_good(bench: Bench, make: Make) -> None:
    assert bench.run(make(bench.spec)).error == ""


@pytest.mark.parametrize("opcode", [0x00, 0x07, 0x0E, 0x13, 0x83, 0xFF])
def test_unknown_opcode(bench: Bench, opcode: int) -> None:
    data = bytearray(assemble(bench.spec, bench.case.chain))
    data[DESCRIPTOR_BYTES * AT] = opcode
    result = bench.core.run(bytes(data), WATCHDOG)
    assert (result.error, result.index, result.interrupted) == ("OPCODE", AT, True)
    bench.core.reset()
    bench.works()


def test_chain_without_end(bench: Bench) -> None:
    """It leaves region 0."""
    spec, core = bench.spec, bench.core
    count = 4096 // DESCRIPTOR_BYTES
    core.place(0, bytes(4096))
    result = core.run([transfer("LOAD")(spec)] * count, WATCHDOG)
    assert (result.error, result.index) == ("BOUNDS", count)
    core.reset()
    core.place(0, bench.case.program)
    bench.works()


def test_chain_that_starts_outside_of_the_region(bench: Bench) -> None:
    core = bench.core
    core.write("CHAIN", core.regions[0].nbytes // DESCRIPTOR_BYTES * DESCRIPTOR_BYTES + DESCRIPTOR_BYTES)
    core.write("CONTROL", 1)
    core.transport.wait(0.0)
    assert core.read("STATUS") == ERROR | bench.spec.errors["BOUNDS"] << 8
    assert core.read("ERROR_INDEX") == 0
    core.reset()
    bench.works()


@pytest.mark.parametrize("wait", range(6))
def test_semaphore_that_nobody_gives(bench: Bench, wait: int) -> None:
    """Nothing finishes any more: two descriptors had."""
    bench.fails(
        {**CONV(bench.spec), "wait": 3 << wait & 0x3F | semaphore(bench.spec, "STORE_COMPUTE")}, "WATCHDOG"
    )


def test_memory_that_is_not_there(bench: Bench) -> None:
    """The interconnect answers with an error."""
    core = bench.core
    for region, at in ((1, 0), (2, len(bench.case.chain) - 2), (0, 0)):
        core.write(f"REGION{region}_LOW", 0x0800_0000)
        result = core.run(bench.case.chain, WATCHDOG)
        assert (result.error, result.index, result.interrupted) == ("AXI", at, True), region
        core.reset()
        bench.works()


@pytest.mark.parametrize("bursts", [0, 1, 2, 3, 40, 400])
def test_read_error(rtl: Bench, bursts: int) -> None:
    rtl.transport.inject(BusFaults(read_error=bursts))
    result = rtl.run()
    assert (result.error, result.interrupted) == ("AXI", True)
    assert result.index <= bursts if bursts < 4 else result.index < AT
    rtl.transport.inject(BusFaults())
    rtl.core.reset()
    rtl.works()


@pytest.mark.parametrize("bursts", [0, 1, 40, 500])
def test_write_error(rtl: Bench, bursts: int) -> None:
    rtl.transport.inject(BusFaults(write_error=bursts))
    result = rtl.run()
    assert (result.error, result.index, result.interrupted) == ("AXI", len(rtl.case.chain) - 2, True)
    rtl.transport.inject(BusFaults())
    rtl.core.reset()
    rtl.works()


@pytest.mark.parametrize(
    "faults", [BusFaults(read_hang=n) for n in (0, 1, 30)] + [BusFaults(write_hang=n) for n in (0, 30)]
)
def test_hung_bus(rtl: Bench, faults: BusFaults) -> None:
    """The watchdog says so; a reset ends once the bus has answered what was asked of it."""
    rtl.transport.inject(faults)
    result = rtl.run()
    assert (result.error, result.interrupted) == ("WATCHDOG", True)
    rtl.core.write("CONTROL", RESET)
    rtl.transport.wait(0.0)
    assert rtl.core.read("STATUS") & BUSY
    rtl.transport.inject(BusFaults())
    rtl.core.reset()
    rtl.works()


def test_interrupt_that_does_not_arrive(rtl: Bench) -> None:
    rtl.transport.inject(BusFaults(drop_interrupt=True))
    result = rtl.run()
    assert (result.error, result.interrupted) == ("", False)
    rtl.transport.inject(BusFaults())
    rtl.works()


@pytest.mark.parametrize("reads", [1, 20, 100, 500, 5000, 9000])
def test_reset_in_the_middle(rtl: Bench, reads: int) -> None:
    """At any time; each look at a register takes some cycles."""
    core = rtl.core
    core.regions[0].write(0, assemble(rtl.spec, rtl.case.chain))
    core.write("CHAIN", 0)
    core.write("CONTROL", START)
    for _ in range(reads):
        core.read("STATUS")
    core.reset()
    rtl.works()
