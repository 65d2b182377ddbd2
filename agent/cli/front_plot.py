"""``overlaid bench --plot``: the latency-energy front as a picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from agent.cli.front import Front
from agent.cli.picture import pyplot_of
from agent.errors import UsageError


def plot(front: Front, title: str, path: Path) -> None:
    """Write the picture in the format that the file's suffix names.

    Raises RuntimeUnavailable without matplotlib, UsageError for an unknown suffix or a file that cannot be written.
    """
    pyplot = pyplot_of()
    figure, axis = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
    _candidates(axis, front)
    _budgets(axis, front)
    axis.set_xscale("log")
    if all(point.energy_mj > 0 for point in front.points):
        axis.set_yscale("log")
    axis.margins(0.12)
    axis.grid(alpha=0.3, which="both")
    axis.set_xlabel("p99 latency, upper confidence bound, ms")
    axis.set_ylabel(f"energy, {front.energy_text}")
    axis.set_title(title)
    axis.legend(loc="best", fontsize="small")
    try:
        figure.savefig(path, dpi=110, format=path.suffix[1:] or "png")
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot write {path}: {error}") from error
    finally:
        pyplot.close(figure)


def _candidates(axis: Any, front: Front) -> None:
    best = [point for point in front.points if point.front]
    axis.step(
        [point.p99_ms for point in best],
        [point.energy_mj for point in best],
        where="post",
        color="tab:blue",
        lw=1,
        label="Pareto front",
    )
    middle = math.sqrt(front.points[0].p99_ms * max(front.points[-1].p99_ms, front.latency_ms))
    for point in front.points:
        axis.errorbar(
            point.p99_ms,
            point.energy_mj,
            yerr=point.error_mj,
            marker="*" if point.chosen else "o",
            ms=14 if point.chosen else 7,
            capsize=3,
            color="tab:blue" if point.front else "tab:grey",
        )
        text = f"{point.name}{', runs' if point.chosen else ''}\n{point.tag}"
        away, side = (6, "left") if point.p99_ms < middle else (-6, "right")
        where = (point.p99_ms, point.energy_mj)
        axis.annotate(text, where, (away, 6), textcoords="offset points", ha=side, fontsize=7)


def _budgets(axis: Any, front: Front) -> None:
    axis.axvline(
        front.latency_ms, color="tab:red", ls="--", lw=1, label=f"latency budget {front.latency_ms:g} ms"
    )
    for (what, mj), style in zip(front.limits_mj, (":", "-."), strict=False):
        axis.axhline(mj, color="tab:orange", ls=style, lw=1, label=f"{what} {mj:.3g} mJ")
