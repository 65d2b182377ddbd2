"""Measuring a candidate: latency from its worker, energy from the node's meters around it."""

from agent.placement.profile.energy import (
    beside,
    energy_per_run,
    energy_sigma,
    holding_watts,
    load_joules,
    with_energy,
)
from agent.placement.profile.gate import Gate
from agent.placement.profile.measure import (
    IDLE_SHARE,
    OPEN_SHARE,
    WARM_UP_SHARE,
    idle_watts,
    measure,
    open_loop,
    open_rate,
    timing,
    warm_up,
)
from agent.placement.profile.meters import watching
from agent.placement.profile.values import Bracket, OpenLoop, Profile, Profiled

__all__ = [
    "IDLE_SHARE",
    "OPEN_SHARE",
    "WARM_UP_SHARE",
    "Bracket",
    "Gate",
    "OpenLoop",
    "Profile",
    "Profiled",
    "beside",
    "energy_per_run",
    "energy_sigma",
    "holding_watts",
    "idle_watts",
    "load_joules",
    "measure",
    "open_loop",
    "open_rate",
    "timing",
    "warm_up",
    "watching",
    "with_energy",
]
