"""A model in service, and where it should be now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from agent.placement import plan
from agent.types import SELF_TEST, Placement


@dataclass(frozen=True, slots=True)
class Service:
    """A model in service, or one that could not be brought back (``why`` says what happened)."""

    placement: Placement
    origin: str
    why: str = ""

    @property
    def serves(self) -> bool:
        """False for an FPGA overlay, which is there for programs, and for what could not be brought back."""
        return not self.why and self.placement.candidate.backend != SELF_TEST


def reweighed(
    placement: Placement, power_cap_w: float | None, lost: Mapping[str, str], now: float
) -> Placement:
    """``plan.replan`` for a placement, at ``now`` in Unix seconds; the same object when nothing is new.

    The candidate stays when every other's device is lost, too.
    """
    choice = plan.replan(placement.budget, placement.verdicts, power_cap_w, placement.candidate, lost)
    candidate = choice.candidate or placement.candidate
    if (candidate, choice.reason, choice.verdicts) == (
        placement.candidate,
        placement.reason,
        placement.verdicts,
    ):
        return placement
    return replace(
        placement, candidate=candidate, reason=choice.reason, verdicts=choice.verdicts, decided=now
    )
