"""An FPGA of a simulated board: which overlay it holds, what another one costs, how a run fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.errors import DeviceError, DmaTimeout, OverlayHung, OverlayLoadError
from simulator.cell import Moment

if TYPE_CHECKING:
    from simulator.work import Work


@dataclass(frozen=True, slots=True)
class Failure:
    """How a run ends that does not: with ``error``, ``after_s`` from its begin."""

    after_s: float
    error: DeviceError


def failing(moment: Moment, index: int) -> Failure | None:
    """What an injected fault makes of a run that begins now."""
    name, now = moment.physics.profile.devices[index].id, moment.conditions
    if timeout_s := now.dma_timeout_s[index]:
        text = f"a transfer to {name} did not end within {timeout_s:g} s (simulated); the run was given up"
        return Failure(timeout_s, DmaTimeout(text))
    if timeout_s := now.core_hangs_s[index]:
        text = f"the overlay of {name} did not end within {timeout_s:g} s (simulated); it was reset"
        return Failure(timeout_s, OverlayHung(text))
    return None


def load_overlay(moment: Moment, index: int, work: Work) -> None:
    """Reserve an FPGA for loading the overlay that ``work`` needs, unless it has it: before the first model, after a
    brown-out, and when the model before needed another one."""
    device = moment.physics.profile.devices[index]
    if device.overlay is None:
        return
    loaded, names = moment.state.overlay[index], device.overlay.names
    if work.overlay is None:
        wanted = max(loaded, 0)
    elif work.overlay.id in names:
        wanted = names.index(work.overlay.id) + len(names) * (work.overlay.version - 1)
    else:
        raise OverlayLoadError(
            f"{device.id} takes the overlays {', '.join(names)}, not {work.overlay.id}; "
            "compile the model for one of them"
        )
    if loaded == wanted:
        return
    if moment.conditions.overlay_fails[index]:
        raise OverlayLoadError(
            f"{device.id} does not take the overlay {names[wanted % len(names)]} (simulated); "
            "load it again, or let another device serve"
        )
    moment.state.overlay[index] = wanted
    moment.physics.load(moment.state, index, device.overlay.load_s, device.overlay.load_j, moment.now)
