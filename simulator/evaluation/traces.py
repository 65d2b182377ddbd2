"""What happens to a board while policies are compared: eight kinds of traces, each from a seed.

A trace's numbers (which board, how heavy its models, when, how much) are drawn from the ranges of its split. Policies
are tuned on split "tune" and compared on "test": no seed and no range of one is in the other, and test traces are
longer.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Literal

from simulator.evaluation.models import Cut, Rates, at_rates, between, model
from simulator.faults import Fault
from simulator.profile import BoardProfile, load_profile, read_profile
from simulator.scenario.files import Cap, Scenario
from simulator.scenario.workload import Workload
from simulator.speed import run_seconds

Split = Literal["tune", "test"]
Weight = Literal["light", "heavy", "fast"]  # which device it is cut for
Range = tuple[float, float]
TRIO = Path(__file__).with_name("trio.toml")
STEP_S = 5.0  # of a rate that changes smoothly


@dataclass(frozen=True, slots=True)
class Ranges:
    """What is drawn from. ``light``, ``heavy``, ``fast``: utilisation at the budget's rate of the CPU, of the FPGA (or
    the GPU where there is none), of the GPU; ``slack``: see ``models.Cut``; ``low``, ``mid``, ``high``: rates as shares
    of the budget's; ``quiet_s``, ``busy_s``: means of a bursty load's states; ``taken``: by a co-tenant; ``hold_s``:
    how long what happens lasts; ``hot_s``: how long the air is so warm."""

    seconds: float
    rate_hz: Range
    light: Range
    heavy: Range
    fast: Range
    slack: Range
    low: Range
    mid: Range
    high: Range
    quiet_s: Range
    busy_s: Range
    taken: Range
    hold_s: Range
    warmer_c: Range
    hot_s: Range


SPLITS: dict[Split, Ranges] = {
    "tune": Ranges(
        seconds=360.0, rate_hz=(11.0, 15.0), light=(0.5, 0.58), heavy=(0.28, 0.36), fast=(0.12, 0.15),
        slack=(1.75, 2.0), low=(0.10, 0.16), mid=(0.3, 0.36), high=(0.72, 0.8), quiet_s=(35.0, 55.0),
        busy_s=(18.0, 28.0), taken=(0.42, 0.52), hold_s=(60.0, 85.0), warmer_c=(83.0, 87.0), hot_s=(190.0, 210.0),
    ),
    "test": Ranges(
        seconds=540.0, rate_hz=(16.0, 24.0), light=(0.38, 0.48), heavy=(0.38, 0.5), fast=(0.16, 0.22),
        slack=(1.45, 1.7), low=(0.03, 0.09), mid=(0.4, 0.5), high=(0.85, 0.97), quiet_s=(60.0, 120.0),
        busy_s=(30.0, 70.0), taken=(0.55, 0.75), hold_s=(90.0, 150.0), warmer_c=(89.0, 96.0), hot_s=(220.0, 300.0),
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Trace:
    """``events``: (time in s, what) of everything that a policy has to recover from."""

    family: str
    split: Split
    seed: int
    profile: BoardProfile
    scenario: Scenario
    workloads: tuple[Workload, ...]
    events: tuple[tuple[float, str], ...]


@dataclass(slots=True)
class _Draft:
    """A trace that is being drawn."""

    profile: BoardProfile
    ranges: Ranges
    draw: Random
    workloads: list[Workload]
    caps: list[Cap]
    faults: list[Fault]
    events: list[tuple[float, str]]
    cap_w: float | None = None

    def between(self, bounds: Range) -> float:
        return between(self.draw, bounds)

    def cut(self, weight: Weight) -> Cut:
        r = self.ranges
        kinds = [device.kind for device in self.profile.devices]
        heavy = ("fpga" if "fpga" in kinds else "gpu", r.heavy)
        kind, share = {"light": ("cpu", r.light), "heavy": heavy, "fast": ("gpu", r.fast)}[weight]
        return Cut(kind, self.between(r.rate_hz), self.between(share), self.between(r.slack))

    def draw_w(self, workload: Workload, kind: str) -> float:
        """What it draws on the CPU or the GPU at the budget's rate, holding included."""
        device = next(device for device in self.profile.devices if device.kind == kind)
        run_s = run_seconds(device, workload.work["int8"])
        return workload.budget.rate_hz * run_s * device.active_w + device.holding_w

    def add(self, workload: Workload, rates: Rates) -> None:
        self.workloads.append(at_rates(workload, rates))

    def fault(
        self, kind: str, at_s: float, for_s: float, value: float | None = None, target: str = ""
    ) -> None:
        for_s = min(for_s, self.ranges.seconds - at_s - 1)
        self.faults.append(Fault(kind=kind, target=target, value=value, at_s=at_s, for_s=for_s))
        self.events += [(at_s, f"{kind} begins"), (at_s + for_s, f"{kind} ends")]


def make_trace(family: str, split: Split, seed: int) -> Trace:
    """The same for the same arguments. KeyError: no such family."""
    boards, draft_in = FAMILIES[family]
    ranges = SPLITS[split]
    profile = board(boards[seed % len(boards)])
    draft = _Draft(profile, ranges, Random(f"{split}/{family}/{seed}"), [], [], [], [])  # noqa: S311
    draft_in(draft)
    scenario = Scenario(
        board=profile.name, seed=seed + (1_000_000 if split == "test" else 0), duration_s=ranges.seconds,
        power_cap_w=draft.cap_w, models=tuple(each.load for each in draft.workloads), caps=tuple(draft.caps),
        faults=tuple(draft.faults),
    )  # fmt: skip
    events = tuple(sorted(draft.events))
    return Trace(family, split, seed, profile, scenario, tuple(draft.workloads), events)


@functools.cache
def board(name: str) -> BoardProfile:
    """A board of the simulator, or the evaluation's own ``trio``."""
    return read_profile(TRIO) if name == "trio" else load_profile(name)


# -- the families ------------------------------------------------------------------------------------------------------


def _steady(draft: _Draft) -> None:
    """One model or two, at one rate each."""
    for number in range(1 + draft.draw.randrange(2)):
        workload = model(draft.profile, f"model-{number}", draft.cut("heavy" if number else "light"))
        share = draft.between(draft.draw.choice((draft.ranges.low, draft.ranges.high)))
        draft.add(workload, [(0, share * workload.budget.rate_hz)])


def _diurnal(draft: _Draft) -> None:
    """The rate of one model rises and falls once, as over a day."""
    workload = model(draft.profile, "day", draft.cut("light"))
    low, high = draft.between(draft.ranges.low), draft.between(draft.ranges.high)
    shift, seconds = draft.between((0.0, 0.3)), draft.ranges.seconds

    def rate(time: float) -> float:
        wave = (1 - math.cos(2 * math.pi * (time / seconds + shift))) / 2
        return workload.budget.rate_hz * (low + (high - low) * wave)

    draft.add(workload, [(i * STEP_S, rate((i + 0.5) * STEP_S)) for i in range(round(seconds / STEP_S))])


def _bursty(draft: _Draft) -> None:
    """A Markov-modulated Poisson process of two states: hardly any requests, or about the budget's rate."""
    workload = model(draft.profile, "bursts", draft.cut("light"))
    shares = draft.between(draft.ranges.low), draft.between(draft.ranges.high)
    stays = draft.between(draft.ranges.quiet_s), draft.between(draft.ranges.busy_s)
    rates, time, state = [], 0.0, 0
    while time < draft.ranges.seconds:
        rates.append((time, shares[state] * workload.budget.rate_hz))
        time += max(1.0, draft.draw.expovariate(1 / stays[state]))
        state = 1 - state
    draft.add(workload, rates)


def _thermal(draft: _Draft) -> None:
    """The air becomes so warm that what has a throttle point reaches it."""
    workload = model(draft.profile, "hot", draft.cut("light"))
    draft.add(workload, _constant(workload, draft.between(_for_cpu(draft))))
    at_s = draft.ranges.seconds * draft.between((0.1, 0.2))
    draft.fault("thermal-step", at_s, draft.between(draft.ranges.hot_s), draft.between(draft.ranges.warmer_c))


def _co_tenant(draft: _Draft) -> None:
    """Another program takes a part of the device that is best, twice."""
    # Where there is one strong device only, nothing could be done about it.
    heavy = draft.draw.random() < 0.5 and len(draft.profile.devices) > 2
    workload = model(draft.profile, "tenant", draft.cut("heavy" if heavy else "light"))
    draft.add(workload, _constant(workload, draft.between(draft.ranges.high if heavy else _for_cpu(draft))))
    target = "fpga" if heavy else "cpu"
    for start in (0.15, 0.55):
        at_s = draft.ranges.seconds * (start + draft.between((0.0, 0.1)))
        hold_s = draft.between(draft.ranges.hold_s)
        draft.fault("co-tenant", at_s, hold_s, draft.between(draft.ranges.taken), target)


def _cap_step(draft: _Draft) -> None:
    """What the models may draw beside the node's rest becomes 30 % less, then 30 % more than at the start, where they
    just fit. The light model has another device for that, the fast one would be late there."""
    which = draft.draw.randrange(3)
    head_w = 0.0
    if which != 1:
        light = model(draft.profile, "light", draft.cut("light"), priority=1)
        draft.add(light, _constant(light, draft.between(draft.ranges.high if which else draft.ranges.low)))
        head_w += draft.draw_w(light, "cpu")
    if which:
        fast = model(draft.profile, "fast", draft.cut("fast"))
        draft.add(fast, _constant(fast, draft.between(draft.ranges.high)))
        head_w += draft.draw_w(fast, "gpu")
    rest_w = draft.profile.base.watts + sum(device.idle_w for device in draft.profile.devices)
    head_w *= 1.1
    draft.cap_w = rest_w + head_w
    low_s = draft.ranges.seconds * draft.between((0.2, 0.3))
    high_s = low_s + draft.between(draft.ranges.hold_s)
    for at_s, factor, text in ((low_s, 0.7, "cap falls"), (high_s, 1.3, "cap rises")):
        draft.caps.append(Cap(at_s=round(at_s), watts=rest_w + factor * head_w))
        draft.events.append((round(at_s), text))


def _contention(draft: _Draft) -> None:
    """A second model, made for another overlay and too much for the CPU, comes into service and goes again, twice."""
    heavy = draft.draw.random() < 0.5
    first = model(draft.profile, "first", draft.cut("heavy" if heavy else "light"), draft.draw.randrange(2))
    draft.add(first, _constant(first, draft.between(draft.ranges.high)))
    seconds = draft.ranges.seconds
    for number, start in enumerate((0.15, 0.6)):
        begins_s = round(seconds * (start + draft.between((0.0, 0.08))))
        ends_s = min(begins_s + draft.between(draft.ranges.hold_s), seconds - 5)
        guest = model(
            draft.profile, f"guest-{number}", draft.cut("heavy"), draft.draw.randrange(2), "npu-small"
        )
        # Clients come when the node has said that it serves.
        rate_hz = draft.between(draft.ranges.high) * guest.budget.rate_hz
        rates = [(0.0, 0.0), (begins_s + 5.0, rate_hz), (ends_s, 0.0)]
        draft.workloads.append(replace(at_rates(guest, rates), begins_s=float(begins_s), ends_s=ends_s))
        draft.events += [(float(begins_s), "model comes"), (ends_s, "model goes")]


def _sensor_loss(draft: _Draft) -> None:
    """A sensor is gone, later shows nonsense, while the rate changes between and beneath."""
    workload = model(draft.profile, "blind", draft.cut("light"))
    seconds, rate_hz = draft.ranges.seconds, workload.budget.rate_hz
    pieces = 6
    rates = [
        (i * seconds / pieces, rate_hz * draft.between(draft.ranges.high if i % 2 else draft.ranges.low))
        for i in range(pieces)
    ]
    draft.add(workload, rates)
    rail = draft.profile.rail_names[0]
    hold_s = draft.between(draft.ranges.hold_s)
    draft.fault("sensor-missing", seconds * draft.between((0.1, 0.2)), hold_s, None, rail)
    draft.fault("sensor-nonsense", seconds * draft.between((0.55, 0.6)), hold_s, None, rail)


def _for_cpu(draft: _Draft) -> Range:
    """Rates at which a light model is best on the CPU, and loads it so that what slows it hurts: only trio's CPU is
    dear enough for the FPGA to be better at high ones."""
    return draft.ranges.mid if draft.profile.name == "trio" else draft.ranges.high


def _constant(workload: Workload, share: float) -> list[tuple[float, float]]:
    return [(0.0, share * workload.budget.rate_hz)]


ALL = ("trio", "kv260", "jetson-orin-nano")
FAMILIES: dict[str, tuple[Sequence[str], Callable[[_Draft], None]]] = {
    "steady": (ALL, _steady),
    "diurnal": (("trio", "trio", "kv260"), _diurnal),
    "bursty": (("trio",), _bursty),
    "thermal": (("trio", "kv260"), _thermal),
    "co-tenant": (ALL, _co_tenant),
    "cap-step": (("trio",), _cap_step),
    "contention": (("trio",), _contention),
    "sensor-loss": (("trio", "trio", "jetson-orin-nano"), _sensor_loss),
}
