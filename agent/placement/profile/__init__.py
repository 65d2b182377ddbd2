"""Measuring a candidate: latency from its worker, energy from the node's meters around it."""

from agent.placement.profile.measure import (
    IDLE_SHARE,
    MAX_RUNS,
    MORE_S,
    WARM_UP_RUNS,
    Bracket,
    Profiled,
    beside,
    energy_per_run,
    holding_watts,
    idle_watts,
    measure,
    timing,
    with_energy,
)

__all__ = [
    "IDLE_SHARE",
    "MAX_RUNS",
    "MORE_S",
    "WARM_UP_RUNS",
    "Bracket",
    "Profiled",
    "beside",
    "energy_per_run",
    "holding_watts",
    "idle_watts",
    "measure",
    "timing",
    "with_energy",
]
