"""The node's power meters: its board's, or an estimate where it has none."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from agent.config import Power
from agent.devices.power import NO_SENSOR
from agent.devices.power.estimate import EstimateMeter
from agent.hal import Board, PowerMeter
from agent.types import BoardInfo

log = logging.getLogger("power")


def node_meters(board: Board, info: BoardInfo, power: Power) -> tuple[Sequence[PowerMeter], BoardInfo]:
    """The meters, and ``info``, what probing found, with them. Takes a moment: a GPU's driver may take seconds.

    An estimate knows the CPU's time alone, so a node with other devices gets none.
    """
    meters = board.meters()
    if meters or power.idle_w is None or power.busy_w is None:
        return meters, info
    others = [device.id for device in info.devices if device.kind != "cpu"]
    if others or info.simulated:
        log.warning(
            "power is not estimated: what %s draws does not show in the CPU's time; remove power.idle_w and "
            "power.busy_w from the configuration",
            ", ".join(others) or "a simulated board",
        )
        return meters, info
    log.info("power is estimated: %g W idle to %g W busy", power.idle_w, power.busy_w)
    meter = EstimateMeter(power.idle_w, power.busy_w)
    problems = tuple(problem for problem in info.problems if not problem.startswith(NO_SENSOR))
    return (meter,), replace(info, meters=(meter.rail,), problems=problems)
