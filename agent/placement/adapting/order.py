"""In which order models move. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from agent.placement.adapting.look import Move
from agent.placement.adapting.rest import drawn_w
from agent.types import Measurement


class Step(NamedTuple):
    """A move with what is known of both ends; None: nowhere."""

    move: Move
    here: Measurement | None
    there: Measurement | None
    rate_hz: float

    @property
    def more_w(self) -> float:
        """What the node draws more after it."""
        return _drawn_w(self.there, self.rate_hz) - _drawn_w(self.here, self.rate_hz)


def in_turn(steps: Sequence[Step]) -> tuple[Move, ...]:
    """Who leaves a device whose overlay changes goes before who needs the new one; else the draw falls first."""
    wanted = {s.there.candidate.device: s.there.overlay for s in steps if s.there and s.there.overlay}

    def makes_way(step: Step) -> bool:
        here = step.here
        return (
            here is not None
            and here.overlay is not None
            and here.overlay != wanted.get(here.candidate.device, here.overlay)
        )

    def enters(step: Step) -> bool:
        return (
            step.there is not None
            and step.there.overlay is not None
            and step.there.overlay != (step.here.overlay if step.here else None)
        )

    ordered = sorted(steps, key=lambda s: (not makes_way(s), enters(s), s.more_w, s.move.model))
    return tuple(step.move for step in ordered)


def _drawn_w(m: Measurement | None, rate_hz: float) -> float:
    return 0.0 if m is None else drawn_w([(m, rate_hz)])
