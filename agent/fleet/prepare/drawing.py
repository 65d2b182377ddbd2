"""Points as a drawing in SVG, for the report's page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, PAD = 640, 320, 56
COLOURS = ("#1f6feb", "#bf3989", "#2da44e", "#9a6700", "#8250df", "#57606a")


@dataclass(frozen=True, slots=True)
class Point:
    """``series``: what has one colour; ``label``: shown beside it, when it is not empty, and on hovering."""

    x: float
    y: float
    series: str
    label: str
    hint: str


def plot(points: Sequence[Point], across: str, up: str) -> str:
    """Points as SVG, a colour for each series; both axes begin where the figures do. ``y`` is in percent."""
    xs, ys = _scale([point.x for point in points]), _scale([point.y for point in points], 100.0)
    series = list(dict.fromkeys(point.series for point in points))
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 20 * len(series)}" role="img" '
        f'aria-label="{escape(up)} by {escape(across)}">'
    ]
    parts.append(
        f'<path d="M{PAD} {PAD / 2}V{HEIGHT - PAD}H{WIDTH - PAD / 2}" fill="none" stroke="#8c959f"/>'
    )
    for share in (0.0, 0.5, 1.0):
        x, y = _x(share), _y(share)
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - PAD + 18}" text-anchor="middle">{xs.at(share):.3g}</text>'
        )
        parts.append(f'<text x="{PAD - 6}" y="{y + 4:.1f}" text-anchor="end">{ys.at(share):.4g}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 10}" text-anchor="middle">{escape(across)}</text>')
    parts.append(f'<text x="{PAD - 40}" y="{PAD / 2 - 8}">{escape(up)}</text>')
    for index, point in enumerate(points):
        x, y = _x(xs.share(point.x)), _y(ys.share(point.y))
        colour = COLOURS[series.index(point.series) % len(COLOURS)]
        hint = f"<title>{escape(point.hint)}</title>"
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}">{hint}</circle>')
        above = y - 8 if index % 2 else y + 18  # neighbours often lie close
        parts.append(f'<text x="{x + 4:.1f}" y="{above:.1f}">{escape(point.label)}</text>')
    for index, name in enumerate(series):
        y, colour = HEIGHT + 20 * index, COLOURS[index % len(COLOURS)]
        parts.append(
            f'<circle cx="{PAD}" cy="{y}" r="5" fill="{colour}"/><text x="{PAD + 12}" y="{y + 4}">{escape(name)}</text>'
        )
    return "".join([*parts, "</svg>"])


@dataclass(frozen=True, slots=True)
class _Scale:
    low: float
    high: float

    def share(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)

    def at(self, share: float) -> float:
        return self.low + share * (self.high - self.low)


def _scale(values: Sequence[float], most: float = math.inf) -> _Scale:
    """A little more than the values need, around the only one; up to ``most`` where none is beyond it."""
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    top = min(high + room, most) if high <= most else high + room
    return _Scale(max(low - room, 0.0) if low >= 0 else low - room, top)


def _x(share: float) -> float:
    return PAD + share * (WIDTH - 1.5 * PAD)


def _y(share: float) -> float:
    return HEIGHT - PAD - share * (HEIGHT - 1.5 * PAD)
