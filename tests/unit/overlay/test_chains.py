"""Every chain that the compiler makes is right in every order in which the engines may carry it out."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import UnsupportedModel
from agent.overlay.compiler import compile_graph
from agent.overlay.descriptor import decode, encode
from agent.overlay.selftest import self_test_graph
from agent.overlay.spec import DESCRIPTOR_BYTES, Overlay
from tests.unit.overlay.interleaving import Violation, run_anyhow, steps
from tests.unit.overlay.plans import NPU, SMALL, net, only, tiny

OVERLAYS = (
    tiny(NPU, 160, 96, 16, 32),
    tiny(SMALL, 320, 160, 24, 24),
    tiny(NPU, 640, 4096),
    tiny(SMALL, 2048, 64),
)
ORDERS = 3


def chain_of(spec: Overlay, seed: int) -> bytes:
    """Of a random net; empty when it does not fit so small an overlay."""
    try:
        segment = only(compile_graph(net(seed).graph, spec))
    except UnsupportedModel:
        return b""
    return segment.data[segment.chain :]


@given(seed=st.integers(0, 3000), overlay=st.sampled_from(OVERLAYS), order=st.integers(0, 1 << 30))
@settings(max_examples=30, deadline=None)
def test_no_order_reads_too_early_or_overwrites_too_soon(seed: int, overlay: Overlay, order: int) -> None:
    chain = chain_of(overlay, seed)
    if chain:
        found = steps(overlay, chain)
        for number in range(ORDERS):
            run_anyhow(found, order + number)


def without(spec: Overlay, chain: bytes, field: str, index: int, mask: int) -> bytes:
    """The chain with bits of a field of one descriptor taken away."""
    at = index * DESCRIPTOR_BYTES
    fields = decode(spec, chain[at : at + DESCRIPTOR_BYTES])
    changed = encode(spec, fields | {field: fields[field] & ~mask})
    return chain[:at] + changed + chain[at + DESCRIPTOR_BYTES :]


def goes_wrong(spec: Overlay, chain: bytes, slow: int) -> bool:
    """Whether some order does in which a descriptor is slow."""
    found = steps(spec, chain)
    try:
        for order in range(5):
            run_anyhow(found, order, slow)
    except Violation:
        return True
    return False


def test_every_semaphore_is_needed() -> None:
    """Without any wait and the signal that it pairs with, some order goes wrong."""
    spec = OVERLAYS[0]
    seed = next(seed for seed in range(100) if len(chain_of(spec, seed)) > 40 * DESCRIPTOR_BYTES)
    chain = chain_of(spec, seed)
    found = steps(spec, chain)
    edges = 0
    for semaphore in range(8):
        mask = 1 << semaphore
        givers = [index for index, step in enumerate(found) if step.fields["signal"] & mask]
        takers = [index for index, step in enumerate(found) if step.fields["wait"] & mask]
        assert len(givers) == len(takers)
        for giver, taker in zip(givers, takers, strict=True):
            broken = without(spec, chain, "signal", giver, mask)
            assert goes_wrong(spec, without(spec, broken, "wait", taker, mask), giver), (
                semaphore,
                giver,
                taker,
            )
            edges += 1
    assert edges > 20


def test_every_drain_is_needed() -> None:
    segment = only(compile_graph(self_test_graph(), NPU))
    chain = segment.data[segment.chain :]
    drain = NPU.flags["DRAIN"]
    found = [index for index, step in enumerate(steps(NPU, chain)) if step.drain]
    assert len(found) == 6  # of seven layers, each of which reads what the one before it wrote
    for index in found:
        assert goes_wrong(NPU, without(NPU, chain, "flags", index, drain), index - 1)
