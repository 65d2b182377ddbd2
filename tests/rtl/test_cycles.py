"""The cycle model says what the RTL takes, layer by layer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from agent.overlay.compiler import compile_graph
from agent.overlay.cycles import chain_cycles
from agent.overlay.driver import Driver
from agent.overlay.program import Segment
from agent.overlay.spec import Overlay
from simulator.overlay.rtl import Ddr, RtlTransport
from tests.bench.mobilenet import mobilenet_graph
from tests.unit.overlay.plans import net

NETS = 60
SHARE = 0.02  # of a layer's cycles
SLACK = 4  # cycles: words that wait for a bank


def compare(spec: Overlay, segment: Segment, ends: tuple[int, ...], total: int) -> None:
    found = chain_cycles(spec, segment.data[segment.chain :])
    last = np.cumsum(segment.counts) - 1
    real, modelled = (np.diff(np.array(each)[last], prepend=0) for each in (ends, found.compute_ends))
    for layer, one, other in zip(segment.layers, real, modelled, strict=True):
        assert abs(other - one) <= SHARE * one + SLACK, (layer.name, one, other)
    assert found.total == pytest.approx(total, rel=SHARE, abs=SLACK)


def test_random_nets(spec: Overlay, open_rtl: Callable[[Ddr], RtlTransport]) -> None:
    driver = Driver(open_rtl(Ddr()), spec)
    for seed in range(NETS):
        sample = net(seed)
        program = compile_graph(sample.graph, spec)
        (segment,) = program.steps
        assert isinstance(segment, Segment)
        loaded = driver.load(program)
        done = loaded.run(segment, sample.inputs)
        compare(spec, segment, done.compute_ends, done.counters.cycles)
        loaded.close()


def test_a_net_that_spills_and_streams(spec: Overlay, open_rtl: Callable[[Ddr], RtlTransport]) -> None:
    program = compile_graph(mobilenet_graph(size=128, width=0.5), spec)
    (segment,) = program.steps
    assert isinstance(segment, Segment) and segment.scratch_bytes
    loaded = Driver(open_rtl(Ddr()), spec).load(program)
    x = np.random.default_rng(1).integers(-128, 128, (1, 3, 128, 128)).astype(np.int8)
    done = loaded.run(segment, {"input": x})
    compare(spec, segment, done.compute_ends, done.counters.cycles)
