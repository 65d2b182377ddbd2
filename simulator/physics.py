"""Watts, heat and time of a board: pure functions over one state, which moves from event to event.

Between two events (a run ends, a fault begins, a throttle point is crossed) every device draws a constant power, so
energy and temperature have closed forms and no step size enters:

    E = P t,    T(t) = T_end + (T_0 - T_end) exp(-t / R C),    T_end = T_ambient + R P

(Incropera, Fundamentals of Heat and Mass Transfer, "lumped capacitance"). A device at a share f of its clock takes
1 / f as long and draws f^2 of its active power: between f (clock alone) and f^3 (clock and voltage). Leakage that grows
with temperature is left out. A run keeps the clock at which it was reserved; loading goes by no clock. A device that is
lost drops what is reserved. Throttle points slow a co-tenant as they slow the node's own runs; a power cap does not.
"""

from __future__ import annotations

import functools
import math
import random
from array import array
from dataclasses import dataclass
from statistics import NormalDist

from simulator.faults import Conditions, Timeline
from simulator.profile import BoardProfile

QUANTILES = 4096  # of the run-time distribution, gone through in a seeded order: deterministic, and exactly log-normal
MIN_CLOCK = 0.05  # of what a power cap leaves
NO_OVERLAY = -1


@dataclass(slots=True)
class BoardState:
    """Everything that changes on a board. Lists are by zone or device, in the profile's order; times in board seconds.

    A device works off what is reserved without a gap until ``busy_until``, drawing ``busy_w`` on average.
    """

    time: float
    temp_c: list[float]
    level: list[int]  # throttle points that a zone is beyond
    busy_until: list[float]
    busy_w: list[float]
    held: list[int]  # models loaded
    overlay: list[
        int
    ]  # index into the device's overlay names, plus their number for each version after the first
    runs: list[int]
    busy_s: list[float]
    device_j: list[float]
    base_j: float = 0.0

    @classmethod
    def at_rest(cls, profile: BoardProfile, time: float) -> BoardState:
        """Idle for long: each zone has the temperature that idling gives."""
        zones, devices = len(profile.zones), len(profile.devices)
        temp_c = []
        for zone in profile.zones:
            watts = sum(d.idle_w for d in profile.devices if d.zone == zone.name)
            watts += profile.base.watts if profile.base.zone == zone.name else 0.0
            temp_c.append(profile.ambient_c + zone.r_c_per_w * watts)
        return cls(
            time, temp_c, [0] * zones, [time] * devices, [0.0] * devices, [0] * devices, [NO_OVERLAY] * devices,
            [0] * devices, [0.0] * devices, [0.0] * devices,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Interval:
    """When the device works on something, and what that costs above idling."""

    start: float
    end: float
    joules: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(slots=True)
class _Zone:
    tau_s: float
    r: float
    devices: list[int]
    base_w: float
    up: list[float]  # level n ends at up[n], going up
    down: list[float]  # level n + 1 ends at down[n], going down
    factors: list[float]  # clock by level


class Physics:
    """The laws of one board. ``seed`` orders the variation of run times."""

    def __init__(self, profile: BoardProfile, timeline: Timeline, seed: int = 0) -> None:
        self.profile, self.timeline = profile, timeline
        names = [zone.name for zone in profile.zones]
        self._zone_of = [names.index(device.zone) for device in profile.devices]
        self._zones = [
            _Zone(
                zone.r_c_per_w * zone.c_j_per_c,
                zone.r_c_per_w,
                [i for i, device in enumerate(profile.devices) if device.zone == zone.name],
                profile.base.watts if profile.base.zone == zone.name else 0.0,
                [point.at_c for point in zone.throttle],
                [point.at_c - point.hysteresis_c for point in zone.throttle],
                [1.0, *(point.factor for point in zone.throttle)],
            )
            for zone in profile.zones
        ]
        self._seed = seed

    def draw(self, state: BoardState) -> tuple[float, list[float]]:
        """Watts of the base and of each device at the state's time."""
        now = self.timeline.at(state.time)
        return (0.0 if now.brown_out else self.profile.base.watts), self._draw(state, now)

    def advance(self, state: BoardState, time: float) -> None:
        """Move the state to ``time``; nothing happens when that lies behind it."""
        while state.time < time:
            conditions = self.timeline.at(state.time)
            if True in conditions.lost:
                _drop(state, conditions)
            watts = self._draw(state, conditions)
            base_w = 0.0 if conditions.brown_out else self.profile.base.watts
            end = min(time, conditions.until)
            for until in state.busy_until:
                if state.time < until < end:
                    end = until
            self._advance_to(state, end, conditions, watts, base_w)

    def clock(self, state: BoardState, device: int) -> float:
        """The share of its clock at which a run would start now."""
        conditions = self.timeline.at(state.time)
        clock = self._throttled(state, device, conditions)
        if conditions.cap_w < math.inf:
            rest_w = self.profile.base.watts + sum(self._draw(state, conditions))
            if state.busy_until[device] > state.time:
                rest_w -= state.busy_w[device]
            most_w = self.profile.devices[device].active_w * (1.0 - conditions.share[device])
            room = max(0.0, conditions.cap_w - rest_w) / most_w
            clock = min(clock, max(math.sqrt(room), MIN_CLOCK))
        return clock

    def run(self, state: BoardState, device: int, seconds: float, time: float) -> Interval:
        """Reserve the device for a run that takes ``seconds`` at full clock, after what is reserved already."""
        self.advance(state, time)
        longer, watts = self.pace(state, device)
        return self.reserve(state, device, seconds * longer, watts)

    def pace(self, state: BoardState, device: int) -> tuple[float, float]:
        """How many times longer than at full clock the device's next run takes if it is reserved now, and its watts."""
        clock = self.clock(state, device)
        # A co-tenant's share is not ours; what it draws is in _draw.
        left = 1.0 - self.timeline.at(state.time).share[device]
        parameters = self.profile.devices[device]
        factor = _variation(parameters.jitter, self._seed, device)[state.runs[device] % QUANTILES]
        state.runs[device] += 1
        return factor / (clock * left), parameters.active_w * clock * clock * left

    def load(self, state: BoardState, device: int, seconds: float, joules: float, time: float) -> Interval:
        """Reserve the device for ``seconds`` whatever its clock, at the power that ``joules`` gives."""
        self.advance(state, time)
        return self.reserve(state, device, seconds, joules / seconds if seconds else 0.0)

    def reserve(self, state: BoardState, device: int, seconds: float, watts: float) -> Interval:
        """Reserve the device for ``seconds`` from now, after what is reserved already."""
        now, until = state.time, state.busy_until[device]
        start = until if until > now else now
        end = start + seconds
        if end > now:
            pending_j = state.busy_w[device] * (start - now)
            state.busy_w[device] = (pending_j + watts * seconds) / (end - now)
        state.busy_until[device] = end
        state.busy_s[device] += seconds
        return Interval(start, end, watts * seconds)

    def _throttled(self, state: BoardState, device: int, conditions: Conditions) -> float:
        """The clock that heat and throttle faults leave."""
        zone = self._zone_of[device]
        return self._zones[zone].factors[state.level[zone]] * conditions.clock[device]

    def _draw(self, state: BoardState, conditions: Conditions) -> list[float]:
        watts = []
        for i, device in enumerate(self.profile.devices):
            if conditions.lost[i]:
                watts.append(0.0)
                continue
            drawn = device.idle_w
            if state.held[i]:
                drawn += device.holding_w
            if state.busy_until[i] > state.time:
                drawn += state.busy_w[i]
            if conditions.share[i]:
                drawn += conditions.share[i] * device.active_w * self._throttled(state, i, conditions) ** 2
            watts.append(drawn)
        return watts

    def _advance_to(
        self, state: BoardState, end: float, conditions: Conditions, watts: list[float], base_w: float
    ) -> None:
        """Integrate to ``end``, or to the throttle point that a zone crosses before it."""
        ambient = self.profile.ambient_c + conditions.ambient_c
        goals = []
        crossed = -1
        step = 0
        for z, zone in enumerate(self._zones):
            watt = zone.base_w and base_w
            for i in zone.devices:
                watt += watts[i]
            goal = ambient + zone.r * watt
            goals.append(goal)
            if zone.up:
                after_s, direction = _crossing(zone, state.temp_c[z], state.level[z], goal)
                if state.time + after_s < end:
                    end, crossed, step = state.time + after_s, z, direction
        seconds = end - state.time
        for z, zone in enumerate(self._zones):
            state.temp_c[z] = goals[z] + (state.temp_c[z] - goals[z]) * math.exp(-seconds / zone.tau_s)
        for i, watt in enumerate(watts):
            state.device_j[i] += watt * seconds
        state.base_j += base_w * seconds
        state.time = end
        if crossed >= 0:
            state.level[crossed] += step


def _drop(state: BoardState, conditions: Conditions) -> None:
    """What lost devices had reserved is done no more; without power, overlays are gone too."""
    for i, lost in enumerate(conditions.lost):
        if lost and state.busy_until[i] > state.time:
            state.busy_s[i] -= state.busy_until[i] - state.time
            state.busy_until[i] = state.time
    if conditions.brown_out:
        state.overlay = [NO_OVERLAY] * len(state.overlay)


def _crossing(zone: _Zone, temp: float, level: int, goal: float) -> tuple[float, int]:
    """Seconds until the zone's next throttle point on the way to ``goal``, and +1 or -1; infinity without one."""
    if level < len(zone.up) and goal > zone.up[level]:
        if temp >= zone.up[level]:
            return 0.0, 1
        return zone.tau_s * math.log((goal - temp) / (goal - zone.up[level])), 1
    if level and goal < zone.down[level - 1]:
        if temp <= zone.down[level - 1]:
            return 0.0, -1
        return zone.tau_s * math.log((temp - goal) / (zone.down[level - 1] - goal)), -1
    return math.inf, 0


@functools.cache
def _variation(jitter: float, seed: int, device: int) -> array[float]:
    """Factors of mean 1 with relative standard deviation ``jitter``: each quantile once, shuffled."""
    sigma = math.sqrt(math.log(1.0 + jitter * jitter))
    normal = NormalDist()
    quantiles = (normal.inv_cdf((i + 0.5) / QUANTILES) for i in range(QUANTILES))
    factors = array("d", (math.exp(sigma * each - sigma * sigma / 2) for each in quantiles))
    random.Random(f"{seed}/{device}").shuffle(factors)  # noqa: S311
    return factors
