"""Transports to overlays by their name: entry points of ``overlaid.transports``."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import cast

from agent.errors import RuntimeUnavailable, one_line
from agent.hal import OverlayTransport

GROUP = "overlaid.transports"


def open_transport(name: str, folder: Path) -> OverlayTransport:
    """Load the overlay in ``folder`` through the transport called ``name``.

    Raises RuntimeUnavailable (no such transport, or what it needs is missing) and OverlayLoadError.
    """
    found = {point.name: point for point in entry_points(group=GROUP)}
    if name not in found:
        raise RuntimeUnavailable(
            f"there is no transport {name!r} to an overlay; there are: {', '.join(sorted(found)) or 'none'}"
        )
    try:
        factory = found[name].load()
    except (ImportError, AttributeError) as error:
        raise RuntimeUnavailable(f"transport {name!r} cannot be used: {one_line(error)}") from error
    return cast(OverlayTransport, factory(folder))
