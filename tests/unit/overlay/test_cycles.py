"""The cycle model: what it says of small chains by hand (tests/rtl compares it with the RTL)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import UnsupportedModel
from agent.overlay.compiler import compile_graph
from agent.overlay.cycles import ChainCycles, chain_cycles, reads
from agent.overlay.descriptor import encode
from tests.bench.mobilenet import mobilenet_graph
from tests.unit.overlay.plans import NPU, SMALL, net, only, tiny

END = {"opcode": NPU.opcodes["END"]}


def times(*descriptors: dict[str, int]) -> ChainCycles:
    return chain_cycles(NPU, b"".join(encode(NPU, fields) for fields in (*descriptors, END)) + bytes(4096))


def pool(words: int, **other: int) -> dict[str, int]:
    return {"opcode": NPU.opcodes["POOL"], "count_e": words, "step_e": 1, "in_h": 4095, "in_w": 4095, **other}


def conv(blocks: int, passes: int, pixels: int, **other: int) -> dict[str, int]:
    counts = {"count_a": blocks, "count_d": passes, "count_f": pixels, "step_f": 1}
    return {"opcode": NPU.opcodes["CONV"], "in_h": 4095, "in_w": 4095, **counts, **other}


def load(words: int, **other: int) -> dict[str, int]:
    return {"opcode": NPU.opcodes["LOAD"], "region": 1, "runs": 1, "words": words, **other}


def store(words: int, **other: int) -> dict[str, int]:
    return {"opcode": NPU.opcodes["STORE"], "region": 2, "runs": 1, "words": words, **other}


@pytest.mark.parametrize(
    ("fields", "issue", "stalled"),
    [
        (conv(2, 3, 64), 2 * 3 * 64, 0),
        (conv(1, 10, 1), 10, 9 * 7),  # eight rows of weights a pass
        (conv(3, 1, 4), 12, 2 * 8),  # twelve with the parameters
        (pool(50, count_b=3), 150, 0),
    ],
)
def test_passes_wait_for_weights(fields: dict[str, int], issue: int, stalled: int) -> None:
    whole: dict[str, Any] = {f"count_{loop}": 1 for loop in "abcdef"} | fields
    found = reads(NPU, whole)
    assert found.issue == issue
    assert found.to_last_pass + found.last_pass == issue + stalled


def test_descriptors_follow_each_other_without_a_gap_unless_drained() -> None:
    plain, drained = (
        times(pool(100), pool(100, flags=flags)).compute_ends for flags in (0, NPU.flags["DRAIN"])
    )
    assert plain[1] - plain[0] == 100
    assert drained[1] - drained[0] == 118
    assert times(pool(100), pool(100, flags=1)).computes[1].drain == 18


def test_transfers_take_two_beats_a_word_and_a_latency() -> None:
    short, long = (times(load(words, signal=1), pool(10, wait=1)).compute_ends[0] for words in (64, 564))
    assert long - short == 1000
    ends = [times(pool(10, signal=4), store(words, wait=4)).total for words in (8, 508)]
    assert ends[1] - ends[0] == 1000


def test_loads_hide_under_compute() -> None:
    hidden = times(load(8, signal=1), pool(2000, wait=1), load(500, signal=1), pool(10, wait=1))
    assert hidden.computes[1].wait == 0
    late = times(load(8, signal=1), pool(500, wait=1), load(500, signal=1), pool(10, wait=1))
    assert late.computes[1].wait > 400


def test_short_runs_cost_more() -> None:
    """The memory answers eight bursts at a time."""
    one = times(load(512, signal=1), pool(1, wait=1)).total
    many = times(load(1, runs=512, region_step=128, chip_step=1, signal=1), pool(1, wait=1)).total
    assert many > 2 * one


@pytest.mark.parametrize(
    "chain", [[load(8, wait=2)], [pool(5, wait=1)], [pool(5, wait=1, signal=2), load(8, wait=2, signal=1)]]
)
def test_chains_that_wait_for_themselves(chain: list[dict[str, int]]) -> None:
    with pytest.raises(ValueError, match="wait for each other"):
        times(*chain)


@given(seed=st.integers(0, 5000), spec=st.sampled_from([NPU, SMALL, tiny(NPU, 640, 256)]))
@settings(max_examples=30, deadline=None)
def test_compiled_chains(seed: int, spec: Any) -> None:
    """Every cycle of compute is accounted for once."""
    try:
        segment = only(compile_graph(net(seed).graph, spec))
    except UnsupportedModel:
        return
    found = chain_cycles(spec, segment.data[segment.chain :])
    assert len(found.computes) == sum(segment.counts)
    assert all(one < other for one, other in pairwise(found.compute_ends))
    assert found.total > found.compute_ends[-1]
    spent = sum(each.issue + each.wait + each.drain + each.weights for each in found.computes)
    assert found.compute_ends[-1] - len(found.computes) * 8 <= spent + 18 <= found.compute_ends[-1] + 8


def test_a_large_net_is_bound_by_compute() -> None:
    program = compile_graph(mobilenet_graph(), NPU)
    segment = only(program)
    found = chain_cycles(NPU, segment.data[segment.chain :])
    assert program.macs / (256 * found.total) > 0.75
