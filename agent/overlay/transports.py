"""Transports by name: entry points of ``overlaid.transports``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from pathlib import Path
from typing import cast

from agent.errors import RuntimeUnavailable, one_line
from agent.hal import OverlayTransport

GROUP = "overlaid.transports"


def find_transport(name: str, others: Iterable[str] = ()) -> Callable[[Path], OverlayTransport]:
    """What loads an overlay from its folder; see ``hal.OverlayTransport``. RuntimeUnavailable lists those there are,
    and ``others``, which the caller knows."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    if name not in found:
        there = ", ".join(sorted([*found, *others])) or "none is installed"
        raise RuntimeUnavailable(f"nothing runs overlays on {name!r}; choose one of: {there}")
    try:
        return cast("Callable[[Path], OverlayTransport]", found[name].load())
    except (ImportError, AttributeError) as error:
        raise RuntimeUnavailable(f"transport {name} cannot be loaded: {one_line(error)}") from error
