"""Prometheus' text format 0.0.4: a writer for gauges, counters and histograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = Mapping[str, str]


@dataclass(slots=True)
class Metric:
    """One metric and its samples. ``help`` is one line; units belong into ``name``."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    _lines: list[str] = field(default_factory=list)

    def add(self, value: float, **labels: str) -> None:
        """A sample of a gauge or a counter."""
        self._sample(self.name, value, labels)

    def add_histogram(
        self, buckets: Sequence[tuple[float, int]], total: int, seconds: float, **labels: str
    ) -> None:
        """``buckets``: (upper bound, count of all below), rising; ``total`` and ``seconds``: of everything."""
        for bound, count in buckets:
            self._sample(f"{self.name}_bucket", count, {**labels, "le": _number(bound)})
        self._sample(f"{self.name}_bucket", total, {**labels, "le": "+Inf"})
        self._sample(f"{self.name}_sum", seconds, labels)
        self._sample(f"{self.name}_count", total, labels)

    def text(self) -> str:
        """Its lines; empty without samples."""
        if not self._lines:
            return ""
        head = [f"# HELP {self.name} {_escape(self.help)}", f"# TYPE {self.name} {self.kind}"]
        return "\n".join([*head, *self._lines, ""])

    def _sample(self, name: str, value: float, labels: Labels) -> None:
        pairs = ",".join(f'{key}="{_escape(text, quote=True)}"' for key, text in labels.items())
        self._lines.append(f"{name}{{{pairs}}} {_number(value)}" if pairs else f"{name} {_number(value)}")


def _escape(text: str, quote: bool = False) -> str:
    escaped = text.replace("\\", r"\\").replace("\n", r"\n")
    return escaped.replace('"', r"\"") if quote else escaped


def _number(value: float) -> str:
    """Floats with all their digits; whole numbers without a fraction."""
    return str(int(value)) if value == int(value) and abs(value) < 1 << 53 else repr(float(value))
