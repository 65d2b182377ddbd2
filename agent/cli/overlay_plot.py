"""``overlaid overlay report --plot``: what each layer spends its cycles on."""

from __future__ import annotations

from pathlib import Path

from agent.errors import RuntimeUnavailable, UsageError
from agent.overlay.report import Report

# What the cycles of a layer are spent on: field of LayerReport, label, colour.
SHARES = (
    ("issue", "array fed", "tab:blue"),
    ("wait", "waiting for DMA", "tab:orange"),
    ("weights", "waiting for weight rows", "tab:red"),
    ("drain", "pipeline", "tab:grey"),
)


def plot(report: Report, path: Path) -> None:
    """Write the picture in the format that the file's suffix names.

    Raises RuntimeUnavailable without matplotlib, UsageError for an unknown suffix or a file that cannot be written.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        raise RuntimeUnavailable("--plot needs matplotlib: pip install 'overlaid[plot]'") from None
    mpl.use("Agg")
    from matplotlib import pyplot

    layers = [layer for segment in report.segments for layer in segment.layers]
    figure, axis = pyplot.subplots(figsize=(11, 1.6 + 0.28 * len(layers)), layout="constrained")
    places = range(len(layers))
    left = [0] * len(layers)
    for field, label, colour in SHARES:
        widths = [getattr(layer, field) for layer in layers]
        axis.barh(places, widths, left=left, color=colour, label=label)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for place, (layer, end) in enumerate(zip(layers, left, strict=True)):
        text = layer.bound if layer.utilisation is None else f"{100 * layer.utilisation:.0f} %, {layer.bound}"
        axis.text(end, place, f" {text}", va="center", fontsize=7)
    axis.set_yticks(places, [f"{layer.name[-36:]}  {layer.kind}" for layer in layers], fontsize=7)
    axis.set_xlim(0, 1.2 * max(left))
    axis.set_ylim(len(layers) - 0.4, -0.6)
    axis.set_xlabel("cycles")
    axis.set_title(
        f"{report.name} on {report.overlay}: {report.cycles} cycles, {100 * report.utilisation:.1f} % of the array used"
    )
    figure.legend(loc="outside lower center", ncols=len(SHARES), fontsize="small")
    try:
        form = path.suffix[1:] or "png"  # savefig would add a suffix to a path without
        figure.savefig(path, dpi=110, format=form)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot write {path}: {error}") from error
    finally:
        pyplot.close(figure)
