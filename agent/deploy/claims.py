"""Whether an FPGA may take another overlay for measuring while models in service run there.

Between two overlays every turn is a reload, which makes who runs there late far beyond its budget.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

from agent.placement.demand import Demand
from agent.types import OverlayRef

Claim = Callable[[str, OverlayRef], Awaitable[str]]  # of a device: why it is refused; empty when granted
Demands = Callable[[], Sequence[Demand]]


async def granted(device: str, overlay: OverlayRef) -> str:
    """The claim of who is alone."""
    del device, overlay
    return ""


def of_nobody(demands: Demands) -> Claim:
    """For a bench, which moves nobody: only what no other overlay is held for may be measured."""

    async def claim(device: str, overlay: OverlayRef) -> str:
        return _held(demands(), device, overlay)

    return claim


@contextlib.asynccontextmanager
async def of_newcomer(
    model: str,
    priority: int,
    demands: Demands,
    turns: Mapping[str, asyncio.Lock],
    bridge: Callable[[str, str, OverlayRef], Awaitable[None]],
) -> AsyncIterator[Claim]:
    """Before models of no lower priority it gives way; others, and its own version so far, are bridged first.

    ``bridge(model, device, overlay)`` leaves who cannot go elsewhere where it is. Until the end nobody who was bridged
    is moved: its turn is held.
    """
    held: set[str] = set()
    async with contextlib.AsyncExitStack() as stack:

        async def claim(device: str, overlay: OverlayRef) -> str:
            everybody = demands()
            above = [d for d in everybody if d.model != model and d.budget.priority >= priority]
            if why := _held(above, device, overlay):
                return f"{why}, whose priority is no lower"
            for name in _holders(everybody, device, overlay):
                if name not in held:
                    await stack.enter_async_context(turns[name])
                    held.add(name)
                if name in _holders(demands(), device, overlay):  # still, after waiting for its turn
                    await bridge(name, device, overlay)
            return ""

        yield claim


def _held(demands: Sequence[Demand], device: str, overlay: OverlayRef) -> str:
    """For whom the device holds another overlay; empty when it does not."""
    there = _holders(demands, device, overlay)
    if not there:
        return ""
    other = next(iter(there.values()))
    return f"{device} holds {other if other.id == overlay.id else other.id} for {' and '.join(there)}"


def _holders(demands: Sequence[Demand], device: str, overlay: OverlayRef) -> dict[str, OverlayRef]:
    """Models that run on the device with another overlay than this, sorted by name: that overlay."""
    return {
        demand.model: m.overlay
        for demand in sorted(demands, key=lambda demand: demand.model)
        for m in demand.measurements
        if m.candidate == demand.incumbent and m.candidate.device == device
        if m.overlay is not None and m.overlay != overlay
    }
