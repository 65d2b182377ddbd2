"""A model in service."""

from __future__ import annotations

from dataclasses import dataclass

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

    @property
    def runs(self) -> bool:
        """False for a model that is shed, too."""
        return self.serves and not self.placement.shed
