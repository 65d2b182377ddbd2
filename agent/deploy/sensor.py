"""Whether a meter tells what the node draws: said when it stops to, and in the reasons of models under a cap."""

from __future__ import annotations

import logging
from dataclasses import replace

from agent.deploy.resources import Resources
from agent.placement.adapting.rest import Rest, sensible
from agent.placement.demand import Placed

log = logging.getLogger("deploy")
SILENT = 3  # looks in a row without a sensible reading; one or two may miss it
NOTE = "no power meter answers: the cap is kept by what the node drew when it last did"


class Sensor:
    """``blind``: meters are there, and none tells any more."""

    def __init__(self, res: Resources) -> None:
        self._res = res
        self.blind = False
        self._silent = 0

    def seen(self, power_w: float | None, rest: Rest) -> bool:
        """After a look that asked the meters, and took ``rest`` from them; whether they stopped to tell, or began
        again. While other work keeps looks from asking, ``rest`` gets no news, for no fault of the meters."""
        self._silent = 0 if sensible(power_w) else self._silent + 1
        blind = bool(self._res.meters) and self._silent >= SILENT
        if blind == self.blind or (not blind and (self._silent or rest.blind_s)):
            return False
        self.blind = blind
        watts = "" if rest.watts is None else f"; without models the node drew {rest.watts:.3g} W"
        text = f"no power meter answers{watts}" if blind else "a power meter answers again"
        log.log(logging.WARNING if blind else logging.INFO, "%s", text)
        self._res.telemetry.event("sensor", text)
        return True

    def noted(self, placed: Placed, cap_w: float | None) -> Placed:
        """With what is not known in its reason, where that matters."""
        if not self.blind or cap_w is None:
            return placed
        return replace(placed, reason=f"{placed.reason}; {NOTE}")
