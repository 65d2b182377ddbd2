"""Random descriptors on the RTL, against stalls of the bus, give the bytes that the instruction set says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from agent.overlay.spec import Overlay
from simulator.overlay.functional import FunctionalTransport
from simulator.overlay.rtl import Ddr, RtlTransport
from tests.rtl.core import Core, Result
from tests.rtl.descriptors import Case, random_case, words_of

CHAINS, LENGTH = 12, 12  # of each stall rate and overlay


@pytest.mark.parametrize("stalls", [0, 50, 400])
def test_random_chains(spec: Overlay, stalls: int, open_rtl: Callable[[Ddr], RtlTransport]) -> None:
    rtl = Core(open_rtl(Ddr(stall_permille=stalls, seed=stalls + 1)), spec)
    functional = Core(FunctionalTransport(spec), spec)
    for seed in range(stalls, stalls + CHAINS):
        case = random_case(spec, seed, LENGTH)
        expected, found = activations(functional, case), activations(rtl, case)
        differs = np.flatnonzero((words_of(spec, expected) != words_of(spec, found)).any(axis=1))
        assert differs.size == 0, f"chain of seed {seed}: words {differs[:8]} of the activation memory"


def activations(core: Core, case: Case) -> bytes:
    """The activation memory after a chain."""
    core.place(0, case.program)
    core.place(1, case.activations)
    core.place(2, bytes(len(case.activations)))
    result = core.run(case.chain)
    assert result == Result("", 0, True, result.cycles)
    assert core.read("DESCRIPTORS") == len(case.chain) - 1
    return core.output()


def test_every_kind_of_descriptor_is_among_them(spec: Overlay) -> None:
    """The generator: each opcode and flag, sums kept, reads outside of the image."""
    made = [v for seed in range(CHAINS) for v in random_case(spec, seed, LENGTH).chain]
    opcodes = {v["opcode"] for v in made}
    flags = 0
    for v in made:
        flags |= v.get("flags", 0)
    assert opcodes == set(spec.opcodes.values())
    assert flags == sum(spec.flags.values())
    assert any(v.get("y0", 0) < 0 and v.get("x0", 0) < 0 for v in made)
