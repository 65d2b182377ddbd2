"""The node's power meters: its board's, or an estimate where it has none."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from agent.config import Power
from agent.devices.power.estimate import EstimateMeter
from agent.hal import Board, PowerMeter
from agent.types import BoardInfo

log = logging.getLogger("power")


def node_meters(board: Board, info: BoardInfo, power: Power) -> Sequence[PowerMeter]:
    """``info``: what probing found. Takes a moment: a GPU's driver may take seconds.

    An estimate knows the CPU's time alone, so a node with other devices gets none.
    """
    meters = board.meters()
    if meters or power.idle_w is None or power.busy_w is None:
        return meters
    others = [device.id for device in info.devices if device.kind != "cpu"]
    if others or info.simulated:
        log.warning(
            "power is not estimated: what %s draws does not show in the CPU's time; remove power.idle_w and "
            "power.busy_w from the configuration",
            ", ".join(others) or "a simulated board",
        )
        return meters
    log.info("power is estimated: %g W idle to %g W busy", power.idle_w, power.busy_w)
    return (EstimateMeter(power.idle_w, power.busy_w),)
