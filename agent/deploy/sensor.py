"""Whether a meter tells what the node draws: said when it stops to, and in the reasons of models under a cap."""

from __future__ import annotations

from dataclasses import replace

from agent.deploy.resources import Resources
from agent.placement.demand import Placed
from agent.placement.rest import Rest

BLIND_S = 3.0  # without a sensible reading; a look or two may miss one
NOTE = "no power meter answers: the cap is kept by what the node drew when it last did"


class Sensor:
    """``blind``: meters are there, and none tells any more."""

    def __init__(self, res: Resources) -> None:
        self._res = res
        self.blind = False

    def seen(self, rest: Rest) -> bool:
        """After a look that asked the meters; whether they stopped to tell, or began again."""
        blind = bool(self._res.meters) and rest.blind_s >= BLIND_S
        if blind == self.blind or (not blind and rest.blind_s):
            return False
        self.blind = blind
        watts = "" if rest.watts is None else f"; without models the node drew {rest.watts:.3g} W"
        text = f"no power meter answers{watts}" if blind else "a power meter answers again"
        self._res.telemetry.event("sensor", text)
        return True

    def noted(self, placed: Placed, cap_w: float | None) -> Placed:
        """With what is not known in its reason, where that matters."""
        if not self.blind or cap_w is None:
            return placed
        return replace(placed, reason=f"{placed.reason}; {NOTE}")
