"""What every ``--plot`` needs: matplotlib, and a file that it can write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.errors import RuntimeUnavailable, UsageError


def pyplot_of() -> Any:
    """matplotlib without a screen. RuntimeUnavailable where it is not installed."""
    try:
        import matplotlib as mpl
    except ImportError:
        raise RuntimeUnavailable("--plot needs matplotlib: pip install 'overlaid[plot]'") from None
    mpl.use("Agg")
    from matplotlib import pyplot

    return pyplot


def check_picture(path: Path) -> None:
    """RuntimeUnavailable without matplotlib, UsageError for an unknown suffix or a missing folder."""
    pyplot = pyplot_of()
    figure = pyplot.figure()
    kinds = figure.canvas.get_supported_filetypes()
    pyplot.close(figure)
    if path.suffix[1:].lower() not in kinds:
        raise UsageError(f"cannot write {path}: its suffix must be one of {', '.join(sorted(kinds))}")
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: there is no folder {path.parent}; make it first")
