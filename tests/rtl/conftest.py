"""Models of the whole core, compiled once and kept; every test asks for transports of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from agent.overlay.spec import Overlay, load_spec
from simulator.overlay.rtl import Ddr, RtlTransport

OVERLAYS = ("npu", "npu-small")


@pytest.fixture(params=OVERLAYS)
def spec(request: pytest.FixtureRequest) -> Overlay:
    """Each overlay that ships."""
    return load_spec(request.param)


@pytest.fixture
def open_rtl(spec: Overlay) -> Iterator[Callable[[Ddr], RtlTransport]]:
    """Makes transports on the RTL, which are closed after the test."""
    made: list[RtlTransport] = []

    def make(ddr: Ddr) -> RtlTransport:
        made.append(RtlTransport(spec, ddr))
        return made[-1]

    yield make
    for transport in made:
        transport.close()
