"""A model's candidates and their numbers, as ``overlaid explain`` and the benches show them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agent.cli.output import print_table, print_wrapped
from agent.cli.views import Values, number, runs
from agent.types import Budget, Candidate, Verdict

SIGMAS_95 = 1.96  # of a normal distribution, to both sides
NO_BACKEND = "none"  # of a variant that nothing on the device opens


@dataclass(frozen=True, slots=True)
class DeviceNow:
    """What a device does to the time of a run: ``slowdown`` multiplies it, ``parallel`` threads share it."""

    id: str
    kind: str = ""
    parallel: int = 1
    slowdown: float = 1.0


@dataclass(frozen=True, slots=True)
class Measured:
    """What a bench measured, as a node tells it. ``threads``: of a run on a CPU."""

    verdicts: tuple[Verdict, ...]
    budget: Budget | None = None
    candidate: Candidate | None = None
    devices: tuple[DeviceNow, ...] = ()
    threads: int = 1


def show_candidates(node: Values, rate_hz: float | None) -> None:
    """A row of numbers for each candidate that was measured, a star at the chosen one, and why it won or lost below it;
    then a line for each other one.

    ``node``: the verdicts, devices and threads, as JSON values. ``rate_hz``: which utilisation is counted at.
    """
    verdicts: Sequence[Values] = node["verdicts"]
    measured = [verdict for verdict in verdicts if verdict["measurement"]]
    if measured:
        rows = [_row(verdict, rate_hz, node) for verdict in measured]
        columns = ["CANDIDATE", *COLUMNS]
        shown = [i for i, column in enumerate(columns) if column not in OPTIONAL or any(r[i] for r in rows)]
        print_table(
            [columns[i] for i in shown],
            [[row[i] for i in shown] for row in rows],
            below=[_outcome(verdict) for verdict in measured],
        )
    for verdict in verdicts:
        if not verdict["measurement"]:
            print_wrapped(_outcome(verdict), f"{_name(verdict)}: ", "    ")


COLUMNS = ("P99 MS <=", "MJ/RUN", "ENERGY", "HELD W", "LOAD", "USED", "ACC")
OPTIONAL = {"HELD W", "USED"}


def _row(verdict: Values, rate_hz: float | None, node: Values) -> list[object]:
    m: Values = verdict["measurement"]
    used = None if not rate_hz else utilisation(m, rate_hz, node)
    return [
        _name(verdict),
        f"{number(m['p99_ms'])} ({math.floor(m['confidence'] * 100)}%)",
        joules(m),
        m["energy"],
        number(m["holding_w"]) if m["holding_w"] else None,
        _load(m),
        None if used is None else percent(used),
        number(m["accuracy"]),
    ]


def _name(verdict: Values) -> str:
    backend = verdict["candidate"]["backend"] != NO_BACKEND
    return runs(verdict["candidate"], backend) + (" *" if verdict["chosen"] else "")


def _outcome(verdict: Values) -> str:
    return "chosen" if verdict["chosen"] else str(verdict["reason"])


def joules(m: Values) -> str | None:
    """mJ of a run and half its 95 % interval: ``2.81 ±0.05``; None without a figure."""
    if m["joules"] is None:
        return None
    sigma = m.get("joules_sigma")
    return f"{number(m['joules'] * 1e3)}" + ("" if sigma is None else error(sigma * SIGMAS_95 * 1e3))


def error(value: float) -> str:
    """How uncertain a figure is, after it: `` ±0.05``."""
    return f" ±{value:.0f}" if value >= 100 else f" ±{value:.2g}"


def _load(m: Values) -> str:
    load_j = m.get("load_j")
    return f"{m['load_s']:.2g} s" + ("" if load_j is None else f" {load_j:.2g} J")


def percent(share: float) -> str:
    """Rounded down, so that 99.96 % is not 100: ``99.9%``, ``41%``; of little use in more digits."""
    tenths = math.floor(share * 1000)
    return f"{tenths / 10:g}%" if tenths < 100 or tenths >= 990 else f"{tenths // 10}%"


def utilisation(m: Values, rate_hz: float, node: Values) -> float:
    """The share of its busiest device that a measured candidate would take."""
    devices: dict[str, Values] = {}
    for device in node.get("devices") or ():
        devices |= {device["id"]: device, device.get("kind") or device["id"]: device}
    parts: Sequence[tuple[str, float]] = m.get("parts") or [(m["candidate"]["device"], m["mean_ms"])]
    return max(_share(devices.get(name, {}), ms, rate_hz, node.get("threads") or 1) for name, ms in parts)


def _share(device: Values, ms: float, rate_hz: float, threads: int) -> float:
    parallel = max(1, device.get("parallel") or 1)
    share = min(threads, parallel) / parallel if device.get("kind") == "cpu" else 1.0
    slowdown: Any = device.get("slowdown") or 1.0
    return float(rate_hz * ms / 1e3 * slowdown * share)
