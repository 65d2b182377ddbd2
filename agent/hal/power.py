"""A power meter integrates watts, so that energy between two readings is exact to the sensor's own limits."""

from __future__ import annotations

from typing import Protocol


class PowerMeter(Protocol):
    """One rail. ``tag``: measured, estimated or simulated."""

    rail: str
    tag: str

    def joules(self) -> float:
        """Energy in joules since the meter was opened; never decreases. Raises MeterError when unreadable.

        Counters are read as they are; sensors that only show watts are integrated between calls (trapezoid), so
        call it at least as often as the power changes.
        """
        ...
