"""``overlaid sim run --plot``: power, heat, the device that serves, and latency over a scenario's time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.cli.picture import pyplot_of
from agent.errors import UsageError
from simulator.faults import KINDS, Fault
from simulator.profile import BASE, BoardProfile, load_profile
from simulator.scenario.files import Scenario

Values = Mapping[str, Any]

DPI = 110
WIDTH_IN = 10.0  # 1100 px
COLOURS = {"base": "#c9ced6", "cpu": "#3b7dd8", "gpu": "#5aa02c", "fpga": "#e08a1e"}  # by kind of device
MORE_COLOURS = (
    "#8e63c7",
    "#1ba39c",
    "#b5567a",
    "#7a6a53",
)  # of a second device of a kind; of models and zones
INK, FAINT, ALARM, FAULT = "#2b2f36", "#8a919c", "#c62f2f", "#f2b8a0"
UNITS = (
    ("hours", 3600.0, 3 * 3600.0),
    ("minutes", 60.0, 600.0),
    ("seconds", 1.0, 0.0),
)  # name, seconds, from this duration on
MAX_LABEL, MAX_LINES = 40, 5


def plot(told: Values, scenario: Scenario, path: Path) -> None:
    """Draw what ``summarise`` told. RuntimeUnavailable without matplotlib, UsageError when it cannot write."""
    pyplot = pyplot_of()
    profile = load_profile(scenario.board)
    name, unit_s = next((n, s) for n, s, least in UNITS if scenario.duration_s >= least)
    series = told["series"]
    times = _middles(series["bin_s"], len(series["cap_w"]), unit_s)
    rows = len(told["models"])
    heights = [2.6, 1.9, 0.35 + 0.4 * rows, 2.6]
    with pyplot.rc_context(
        {"font.size": 9, "axes.edgecolor": FAINT, "axes.labelcolor": INK, "text.color": INK}
    ):
        figure, axes = pyplot.subplots(
            4, 1, sharex=True, figsize=(WIDTH_IN, sum(heights) + 1.4), layout="constrained",
            gridspec_kw={"height_ratios": heights},
        )  # fmt: skip
        _power(axes[0], times, series, scenario, profile, unit_s)
        _heat(axes[1], times, series, profile)
        _devices(axes[2], told, scenario, profile, unit_s)
        _latency(axes[3], series, told, unit_s)
        _faults(axes, scenario, unit_s)
        for axis in axes:
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(colors=INK, length=3)
            axis.margins(x=0)
        for axis in (axes[0], axes[1], axes[3]):
            axis.grid(axis="y", color="#e6e8ec", lw=0.7)
            axis.set_axisbelow(True)
            axis.legend(
                loc="upper left", bbox_to_anchor=(1.005, 1.0), frameon=False, handlelength=1.4, borderpad=0
            )
        axes[3].set_xlim(0, scenario.duration_s / unit_s)
        axes[3].set_xlabel(name)
        figure.align_ylabels(axes)
        title = f"{profile.title} (simulated): {', '.join(model['name'] for model in told['models'])}"
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        try:
            figure.savefig(path, dpi=DPI)
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot write {path}: {error}") from error
        finally:
            pyplot.close(figure)


def _power(
    axis: Any,
    times: Sequence[float],
    series: Values,
    scenario: Scenario,
    profile: BoardProfile,
    unit_s: float,
) -> None:
    watts = series["watts"]
    colours = {BASE: COLOURS["base"], **_device_colours(profile)}
    axis.stackplot(
        times,
        list(watts.values()),
        labels=list(watts),
        colors=[colours[part] for part in watts],
        step="mid",
        lw=0,
    )
    changes = [(0.0, scenario.power_cap_w), *((cap.at_s, cap.watts) for cap in scenario.caps)]
    ends = [*(time for time, _ in changes[1:]), scenario.duration_s]
    label = "cap"
    for (start, cap), end in zip(changes, ends, strict=True):
        if cap is not None:
            axis.plot(
                [start / unit_s, end / unit_s], [cap, cap], color=INK, lw=1.4, ls=(0, (4, 2)), label=label
            )
            label = "_"
    axis.set_ylim(bottom=0)
    axis.set_ylabel("power, W")


def _heat(axis: Any, times: Sequence[float], series: Values, profile: BoardProfile) -> None:
    for zone, colour in zip(profile.zones, (ALARM, *MORE_COLOURS), strict=False):
        celsius = series["celsius"][zone.name]
        axis.plot(times, celsius, color=colour, lw=1.6, label=zone.name)
        throttled = [level > 0 for level in series["throttle_level"][zone.name]]
        if any(throttled):
            axis.fill_between(
                times, 0, 1, where=throttled, step="mid", color=ALARM, alpha=0.25, lw=0, label="throttled",
                transform=axis.get_xaxis_transform(),
            )  # fmt: skip
        for point in zone.throttle:
            if max(celsius) > point.at_c - 30:  # those far away would press the curve flat
                axis.axhline(
                    point.at_c, color=colour, lw=1, ls=(0, (4, 2)), label=f"slows to {point.factor:.0%}"
                )
    axis.set_ylabel("temperature, °C")


def _devices(axis: Any, told: Values, scenario: Scenario, profile: BoardProfile, unit_s: float) -> None:
    colours = _device_colours(profile)
    models = [model["name"] for model in told["models"]]
    for row, model in enumerate(models):
        moves = [d for d in told["decisions"] if d["model"] == model and d["old"] != d["new"]]
        ends = [*(move["time_s"] for move in moves), scenario.duration_s][1:]
        for move, end in zip(moves, ends, strict=True):
            start, candidate = move["time_s"] / unit_s, move["new"]
            if candidate is None:  # shed
                continue
            width = end / unit_s - start
            axis.broken_barh(
                [(start, width)], (row - 0.38, 0.76), color=colours[candidate["device"]], lw=0, zorder=3
            )
            if width > 0.07 * scenario.duration_s / unit_s:
                axis.text(
                    start + width / 2, row, f"{candidate['device']}, {candidate['variant']}", ha="center", va="center",
                    color="white", fontsize=8.5, fontweight="bold", zorder=4,
                )  # fmt: skip
            if move["old"] is not None:
                axis.plot(
                    [start, start], [row - 0.5, row + 0.5], color=INK, lw=1.6, solid_capstyle="butt", zorder=5
                )
    axis.set_ylim(len(models) - 0.4, -0.6)
    axis.set_yticks(range(len(models)), models if len(models) > 1 else [""])
    axis.tick_params(left=False)
    axis.set_ylabel("served by")


def _latency(axis: Any, series: Values, told: Values, unit_s: float) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    times = _middles(
        series["request_bin_s"], len(series["models"][told["models"][0]["name"]]["failed"]), unit_s
    )
    colours = (COLOURS["cpu"], *MORE_COLOURS)
    several = len(told["models"]) > 1
    failed = [0] * len(times)
    for number, model in enumerate(told["models"]):
        colour, lines = colours[number % len(colours)], series["models"][model["name"]]
        who = f"{model['name']} " if several else ""
        axis.plot(times, _gaps(lines["p99_ms"]), color=colour, lw=1.5, label=f"{who}p99")
        axis.plot(times, _gaps(lines["p50_ms"]), color=colour, lw=1.2, alpha=0.45, label=f"{who}p50")
        axis.axhline(
            model["budget"]["latency_p99_ms"], color=colour if several else INK, lw=1.2, ls=(0, (4, 2)),
            label=f"{who}budget",
        )  # fmt: skip
        failed = [a + b for a, b in zip(failed, lines["failed"], strict=True)]
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_minor_locator(NullLocator())
    marks = [time for time, count in zip(times, failed, strict=True) if count]
    if marks:
        axis.plot(
            marks, [0.96] * len(marks), ls="", marker="x", ms=6, mew=1.8, color=ALARM, label=f"failed: {sum(failed)}",
            transform=axis.get_xaxis_transform(), clip_on=False,
        )  # fmt: skip
    axis.set_ylabel("latency, ms")


def _middles(bin_s: float, count: int, unit_s: float) -> list[float]:
    return [(number + 0.5) * bin_s / unit_s for number in range(count)]


def _gaps(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def _faults(axes: Any, scenario: Scenario, unit_s: float) -> None:
    """Shades over all panels; labels and arrows above the first, those that would overlap one line higher."""
    taken: list[float] = []  # where the labels of each line end
    per_letter = scenario.duration_s / unit_s / 130
    labels = [(fault.at_s, _fault_text(fault), ALARM) for fault in scenario.faults]
    labels += [(cap.at_s, f"cap {cap.watts:g} W" if cap.watts else "no cap", INK) for cap in scenario.caps]
    for fault in scenario.faults:
        end = (
            scenario.duration_s if fault.for_s is None else min(scenario.duration_s, fault.at_s + fault.for_s)
        )
        for axis in axes:
            axis.axvspan(fault.at_s / unit_s, end / unit_s, color=FAULT, alpha=0.28, lw=0, zorder=0.5)
    for at_s, text, colour in sorted(labels):
        start = at_s / unit_s
        line = next((n for n, end in enumerate(taken) if end <= start), len(taken))
        taken[line : line + 1] = [start + (len(text) + 1) * per_letter]
        for axis in axes:
            axis.axvline(start, color=colour, lw=0.8, alpha=0.55)
        if line >= MAX_LINES:
            continue
        axes[0].annotate(
            text, (start, 1), xycoords=axes[0].get_xaxis_transform(), xytext=(2, 3 + 12 * line),
            textcoords="offset points", fontsize=8.5, color=colour, annotation_clip=False,
        )  # fmt: skip


def _fault_text(fault: Fault) -> str:
    unit = KINDS[fault.kind].unit
    amount = (
        f"{fault.amount:+g} °C" if unit == "C" else f"{fault.amount:g} {unit}" if unit in ("W", "s") else ""
    )
    share = f"{fault.amount:.0%}" if unit.startswith("of ") else ""
    return " ".join(filter(None, (fault.kind, fault.target, amount, share)))[:MAX_LABEL]


def _device_colours(profile: BoardProfile) -> dict[str, str]:
    """Devices by id: the colour of their kind, the first of each."""
    colours: dict[str, str] = {}
    spare = iter(MORE_COLOURS * len(profile.devices))
    for device in profile.devices:
        colour = COLOURS[device.kind]
        colours[device.id] = colour if colour not in colours.values() else next(spare)
    return colours
