"""``overlaid telemetry --plot``: latency and power over time, with deployments and events marked."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from agent.errors import RuntimeUnavailable, UsageError
from agent.telemetry import queries
from agent.telemetry.queries import Query, Row

BINS = 120
MARKS = 40  # labels that can still be told apart


def plot(query: Query, since: float, model: str | None, path: Path) -> None:
    """Write the picture in the format that the file's suffix names.

    Raises RuntimeUnavailable without matplotlib, UsageError for an unknown suffix, a file that cannot be written, or
    nothing to draw.
    """
    bin_s = _bin(query, since)
    served = queries.latency_over_time(query, since, bin_s, model)
    power = queries.power_over_time(query, since, bin_s)
    if not served and not power:
        raise UsageError(
            "nothing to draw: no latency and no power was recorded in that time; try a longer --since"
        )
    try:
        import matplotlib as mpl
    except ImportError:
        raise RuntimeUnavailable("--plot needs matplotlib: pip install 'overlaid[plot]'") from None
    mpl.use("Agg")
    from matplotlib import pyplot
    from matplotlib.dates import ConciseDateFormatter

    kinds = [draw for draw, rows in ((_latency, served), (_power, power)) if rows]
    figure, axes = pyplot.subplots(
        len(kinds), 1, sharex=True, squeeze=False, figsize=(11, 3.6 * len(kinds) + 0.8), layout="constrained"
    )
    for (axis,), draw in zip(axes, kinds, strict=True):
        draw(axis, served if draw is _latency else power)
        axis.grid(alpha=0.3)
        axis.set_ylim(bottom=0)
    _marks(axes[:, 0], queries.deployments(query, since, model), queries.events(query, since, model))
    for (axis,) in axes:
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize="small")
    axes[-1, 0].xaxis.set_major_formatter(ConciseDateFormatter(axes[-1, 0].xaxis.get_major_locator()))
    try:
        pyplot.savefig(path, dpi=110)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot write {path}: {error}") from error
    finally:
        pyplot.close(figure)


def _bin(query: Query, since: float) -> float:
    """Seconds per point, so that all that was recorded gives at most BINS points."""
    (ends,) = query(
        "SELECT min(time) AS first, max(time) AS last FROM"
        " (SELECT time FROM latency UNION ALL SELECT time FROM power) WHERE time >= ?",
        (since,),
    )
    return max(1.0, ((ends["last"] or 0.0) - (ends["first"] or 0.0)) / BINS)


def _latency(axis: Any, rows: list[Row]) -> None:
    for model in sorted({row["model"] for row in rows}):
        mine = [row for row in rows if row["model"] == model]
        times = [_time(row) for row in mine]
        (line,) = axis.plot(times, [row["p99_ms"] for row in mine], marker=".", label=f"{model} p99")
        axis.plot(
            times,
            [row["p50_ms"] for row in mine],
            marker=".",
            ls="--",
            color=line.get_color(),
            label=f"{model} p50",
        )
    axis.set_ylabel("latency, ms")


def _power(axis: Any, rows: list[Row]) -> None:
    for rail, tag in sorted({(row["rail"], row["tag"]) for row in rows}):
        mine = [row for row in rows if (row["rail"], row["tag"]) == (rail, tag)]
        axis.plot(
            [_time(row) for row in mine],
            [row["average_w"] for row in mine],
            marker=".",
            label=f"{rail} ({tag})",
        )
    axis.set_ylabel("power, W")


def _marks(axes: Any, deployments: list[Row], events: list[Row]) -> None:
    ended = [row for row in deployments if row["state"] not in {"QUEUED", "IN_PROGRESS"}]
    for row in ended[-MARKS:]:
        colour = "tab:green" if row["state"] == "SUCCEEDED" else "tab:red"
        for axis in axes:
            axis.axvline(_time(row), color=colour, lw=1)
        _label(axes[0], row, f"{row['model']} {row['version']} {row['state']}", colour)
    for row in events[-MARKS:]:
        for axis in axes:
            axis.axvline(_time(row), color="grey", lw=0.8, ls=":")
        _label(axes[0], row, row["kind"], "grey")


def _label(axis: Any, row: Row, text: str, colour: str) -> None:
    # x in data, y in shares of the axis: at the top, read upwards.
    axis.text(
        _time(row), 0.98, text, rotation=90, va="top", ha="right", fontsize=7, color=colour,
        transform=axis.get_xaxis_transform(), bbox={"facecolor": "white", "alpha": 0.8, "lw": 0, "pad": 1},
    )  # fmt: skip


def _time(row: Row) -> datetime:
    return datetime.fromtimestamp(row["time"])
