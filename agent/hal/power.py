"""A power meter integrates watts, so that energy between two readings is exact to the sensor's own limits."""

from __future__ import annotations

from typing import Protocol


class PowerMeter(Protocol):
    """One rail. ``tag``: measured, estimated or simulated."""

    rail: str
    tag: str

    def joules(self) -> float:
        """Energy in joules since the meter was opened; never decreases. Raises MeterError when unreadable.

        Never waits for a sensor. Counters are read as they are; sensors that only show watts are read apart from this,
        as often as it is called within bounds, and integrated (trapezoid).
        """
        ...
