"""A net that needs scratch memory and streams its weights, on a bus that stalls: the golden model's bytes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from agent.overlay.compiler import compile_graph
from agent.overlay.driver import Driver
from agent.overlay.functional import run_layers
from agent.overlay.program import Segment
from agent.overlay.spec import Overlay
from simulator.overlay.rtl import Ddr, RtlTransport
from tests.bench.mobilenet import mobilenet_graph


@pytest.mark.parametrize(
    "ddr", [Ddr(stall_permille=150, seed=7), Ddr(3, 90, 20, 8)], ids=["stalls", "slow writes"]
)
def test_mobilenet(spec: Overlay, open_rtl: Callable[[Ddr], RtlTransport], ddr: Ddr) -> None:
    program = compile_graph(mobilenet_graph(size=128, width=0.5), spec)
    (segment,) = program.steps
    assert isinstance(segment, Segment)
    assert segment.scratch_bytes and len(segment.data) > spec.memory.weight_rows * spec.row_bytes
    loaded = Driver(open_rtl(ddr), spec).load(program)
    x = np.random.default_rng(2).integers(-128, 128, (1, 3, 128, 128)).astype(np.int8)
    (output,) = program.outputs
    wanted = run_layers(segment.layers, {"input": x[0]})[output.name]
    for _ in range(2):
        np.testing.assert_array_equal(loaded.run(segment, {"input": x}).outputs[output.name][0], wanted)
