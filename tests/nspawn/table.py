"""What the tests measured, with its target: a table at their end, and a file."""

from __future__ import annotations

import json
from pathlib import Path

from tests.bench.harness import Figure, show
from tests.system.stage import ROOT

FILE = ROOT / "build" / "test-system.json"


class Table:
    """Figures by name; later ones of the same name keep the worst."""

    def __init__(self) -> None:
        self.figures: dict[str, Figure] = {}

    def add(self, name: str, value: float, unit: str = "s", at_most: float | None = None) -> None:
        before = self.figures.get(name)
        if before is not None and before.value is not None:
            value = max(value, before.value)
        self.figures[name] = Figure(value, unit, at_most)

    def write(self, path: Path = FILE) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_json(), indent=1) + "\n")

    def to_json(self) -> dict[str, dict[str, object]]:
        return {name: figure.to_json() for name, figure in self.figures.items()}

    def show(self) -> None:
        show(self.to_json(), as_json=False)
