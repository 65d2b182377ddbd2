"""The form that all benches share: named figures, as a table or as one JSON object."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agent.cli.output import print_table


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value; its target is a bound on one side, or none. ``missing``: why there is no value."""

    value: float | None
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    missing: str | None = None

    def to_json(self) -> dict[str, Any]:
        """``{"value", "unit", "target", "met"}``; target and met are null without a target. Without a value that and
        met are null, and ``missing`` says why."""
        target: str | None = None
        met: bool | None = None
        if self.at_most is not None:
            target = f"<= {self.at_most:g}"
            met = None if self.value is None else self.value <= self.at_most
        elif self.at_least is not None:
            target = f">= {self.at_least:g}"
            met = None if self.value is None else self.value >= self.at_least
        found = {"unit": self.unit, "target": target, "met": met}
        if self.value is None:
            return {"value": None, **found, "missing": self.missing}
        return {"value": round(self.value, 4), **found}


Figures = Mapping[str, dict[str, Any]]


def show(figures: Figures, as_json: bool) -> None:
    """Print figures in their JSON form, or as a table."""
    if as_json:
        print(json.dumps(figures))
        return
    words = {None: None, True: "met", False: "MISSED"}
    rows = [
        (
            name,
            None if each["value"] is None else f"{each['value']:g}",
            each["unit"],
            each["target"],
            each.get("missing") or words[each["met"]],
        )
        for name, each in figures.items()
    ]
    print_table(("FIGURE", "VALUE", "UNIT", "TARGET", ""), rows)


def parse(description: str | None) -> bool:
    """Read the command line of a bench: True for --json."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object: figure → value, unit, target, met"
    )
    return bool(parser.parse_args().json)


def main(measure: Callable[[], Mapping[str, Figure]], description: str | None = None) -> int:
    """Run one bench and print its figures. A missed target is shown, not an exit code: machines differ."""
    as_json = parse(description)
    show({name: figure.to_json() for name, figure in measure().items()}, as_json)
    return 0
