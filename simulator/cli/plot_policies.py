"""``overlaid sim evaluate --plot``: violations beside joules per inference, and regret by kind of trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.cli.picture import pyplot_of
from agent.errors import UsageError
from simulator.cli.plot import COLOURS, DPI, FAINT, INK, MORE_COLOURS, WIDTH_IN
from simulator.evaluation.figures import Figures, Mean
from simulator.evaluation.report import OURS, Report
from simulator.evaluation.run import HINDSIGHT, ORACLE

PALETTE = (COLOURS["cpu"], COLOURS["gpu"], COLOURS["fpga"], *MORE_COLOURS, "#4f6d7a", "#a5a52a")
OUR_COLOUR = "#c62f2f"
MARKS = "svDP^<>ph"
NEAR_PERCENT = 0.1  # within which the axes are linear
ROW_IN = 0.5


def plot_policies(report: Report, path: Path) -> None:
    """RuntimeUnavailable without matplotlib, UsageError when it cannot write."""
    pyplot = pyplot_of()
    styles = _styles([each.policy for each in report.overall])
    families = list(report.families)
    with pyplot.rc_context(
        {"font.size": 9, "axes.edgecolor": FAINT, "axes.labelcolor": INK, "text.color": INK}
    ):
        figure, (left, right) = pyplot.subplots(
            1, 2, figsize=(WIDTH_IN, max(4.2, 1.2 + ROW_IN * len(families))), layout="constrained"
        )
        for each in report.overall:
            _point(left, each, styles[each.policy])
        _percents(left.xaxis)
        left.set_xlabel("requests late or failed, %")
        left.set_ylabel("energy, mJ per inference")
        left.set_ylim(bottom=0)
        left.set_title("all traces, mean and 95 % interval", fontsize=9)
        _regrets(right, report, families, styles)
        for axis in (left, right):
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(colors=INK, length=3)
            axis.grid(color="#e6e8ec", lw=0.7)
            axis.set_axisbelow(True)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
        try:
            figure.savefig(path, dpi=DPI)
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot write {path}: {error}") from error
        finally:
            pyplot.close(figure)


def _styles(policies: list[str]) -> dict[str, dict[str, Any]]:
    """By policy: how it is drawn; ours and the oracle stand out."""
    styles: dict[str, dict[str, Any]] = {}
    others = [name for name in policies if name not in (OURS, ORACLE, HINDSIGHT)]
    for number, name in enumerate(others):
        styles[name] = {
            "color": PALETTE[number % len(PALETTE)],
            "marker": MARKS[number % len(MARKS)],
            "ms": 5.5,
        }
    styles[ORACLE] = {"color": INK, "marker": "*", "ms": 10, "zorder": 5}
    styles[HINDSIGHT] = {"color": INK, "marker": "*", "ms": 10, "mfc": "white", "zorder": 5}
    styles[OURS] = {"color": OUR_COLOUR, "marker": "o", "ms": 8, "zorder": 6}
    return styles


def _point(axis: Any, each: Figures, style: dict[str, Any]) -> None:
    axis.errorbar(
        100 * each.violations.value, 1e3 * each.joules.value, xerr=_margin(each.violations, 100),
        yerr=_margin(each.joules, 1e3), ls="", elinewidth=1, alpha=0.9, label=each.policy, **style,
    )  # fmt: skip


def _regrets(axis: Any, report: Report, families: list[str], styles: dict[str, dict[str, Any]]) -> None:
    for row, family in enumerate(families):
        for each in report.families[family]:
            if each.policy != ORACLE:
                axis.plot(100 * each.regret.value, row, ls="", alpha=0.85, **styles[each.policy])
    axis.axvline(0, color=INK, lw=1)
    axis.set_yticks(range(len(families)), families)
    axis.set_ylim(len(families) - 0.5, -0.5)
    axis.set_xscale("symlog", linthresh=10)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_xlabel("regret to the oracle, % of J per inference")
    axis.set_title("by kind of trace, mean", fontsize=9)


def _percents(axis: Any) -> None:
    axis.axes.set_xscale("symlog", linthresh=NEAR_PERCENT)
    axis.axes.set_xlim(left=0)
    axis.set_major_formatter(lambda value, _: f"{value:g}")


def _margin(mean: Mean, scale: float) -> float:
    return scale * (mean.margin or 0.0)
