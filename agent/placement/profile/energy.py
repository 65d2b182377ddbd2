"""From brackets to joules: what a run, loading a model and holding it cost. Pure."""

from __future__ import annotations

import random
from dataclasses import replace

from agent.placement.profile.values import Bracket
from agent.placement.stats import mean
from agent.types import Measurement

MIN_WATTS, MAX_WATTS = 1e-3, 1e3  # above idle: less is below what sensors resolve, more is a glitch
MIN_HOLDING_W = 0.010  # what a loaded model costs at least to be told from noise
RESAMPLES = 200
MAX_LOAD_J = 1e6


def energy_per_run(
    before: Bracket | None, during: Bracket | None, after: Bracket | None, runs: int
) -> float | None:
    """Joules of one run above idle: (P - P_idle) * T / runs, from (idle, run, idle).

    None when a bracket is missing, when the watts above idle are not within MIN_WATTS and MAX_WATTS, or when the idle
    brackets differ by more than that: then something else was busy.
    """
    if before is None or during is None or after is None or not runs:
        return None
    above_w = during.watts - _mean_watts(before, after)
    if not max(abs(before.watts - after.watts), MIN_WATTS) <= above_w <= MAX_WATTS:
        return None
    return above_w * during.seconds / runs


def energy_sigma(
    before: Bracket | None, during: Bracket | None, after: Bracket | None, runs: int
) -> float | None:
    """Standard error of ``energy_per_run`` by the bootstrap: windows are drawn again and again, with replacement, from
    those that were seen (Efron, "Bootstrap methods", Annals of Statistics 7, 1979). None without windows."""
    if before is None or during is None or after is None or not runs or len(during.windows) < 2:
        return None
    idles = (*before.windows, *after.windows)
    if len(idles) < 2:
        idles = (before.watts, after.watts)
    rng = random.Random(runs)  # noqa: S311 (no secret; the same figures give the same interval)
    drawn = [_drawn(rng, during.windows) - _drawn(rng, idles) for _ in range(RESAMPLES)]
    middle = mean(drawn)
    deviation_w = (sum((watts - middle) ** 2 for watts in drawn) / (RESAMPLES - 1)) ** 0.5
    return float(deviation_w) * during.seconds / runs


def _drawn(rng: random.Random, windows: tuple[float, ...]) -> float:
    return mean(rng.choices(windows, k=len(windows)))


def holding_watts(before: Bracket | None, after: Bracket | None, rest_w: float | None) -> float | None:
    """Watts that the loaded model costs while idle, from the idle brackets around its runs and the rest before it.

    0.0 below MIN_HOLDING_W or below what the brackets differ by; None when one of the three is missing.
    """
    if before is None or after is None or rest_w is None:
        return None
    above_w = _mean_watts(before, after) - rest_w
    return above_w if above_w >= max(abs(before.watts - after.watts), MIN_HOLDING_W) else 0.0


def load_joules(loading: Bracket | None, rest_w: float | None) -> float | None:
    """What loading cost above the rest before it; None when it was too short for the meters, or makes no sense."""
    if loading is None or rest_w is None or not loading.windows:
        return None
    joules = max(0.0, (loading.watts - rest_w) * loading.seconds)
    return joules if joules <= MAX_LOAD_J else None


def with_energy(
    measured: Measurement,
    joules: float | None,
    holding_w: float | None,
    rest_w: float | None,
    tag: str,
    sigma: float | None = None,
    load_j: float | None = None,
) -> Measurement:
    """``measured`` with what a run and holding the model cost, all or nothing: half of it would mislead."""
    if joules is None or holding_w is None:
        return measured
    return replace(
        measured,
        joules=joules,
        energy=tag,
        holding_w=holding_w,
        rest_w=rest_w,
        joules_sigma=sigma,
        load_j=load_j,
    )


def beside(measured: Measurement, running: Measurement | None) -> Measurement:
    """``measured`` without ``running``, the worker of the same model that was loaded meanwhile.

    What that one holds is no part of the rest, and a candidate on its device, which seemed to be held for nothing,
    holds at least as much.
    """
    if running is None or not running.holding_w or measured.holding_w is None or measured.rest_w is None:
        return measured
    same = measured.candidate.device == running.candidate.device
    return replace(
        measured,
        rest_w=max(0.0, measured.rest_w - running.holding_w),
        holding_w=max(measured.holding_w, running.holding_w) if same else measured.holding_w,
    )


def _mean_watts(one: Bracket, other: Bracket) -> float:
    return (one.watts * one.seconds + other.watts * other.seconds) / (one.seconds + other.seconds)
