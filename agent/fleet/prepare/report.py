"""What preparing found, as JSON: report.json and what ``--json`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent.fleet.prepare.values import Made, Prepared, Quality, Recipe
from agent.types import to_jsonable

SCHEMA = "overlaid-prepare/1"


def to_json(prepared: Prepared) -> dict[str, Any]:
    """Sizes in bytes; ``ratio``: how many times smaller than the model that came."""
    source = prepared.source
    return {
        "schema": SCHEMA,
        "model": {
            "name": source.name,
            "version": prepared.request.version,
            "file": prepared.request.model.name,
            "format": source.came_as,
            "quantised": source.quantised,
            "bytes": source.original_size,
            "notes": list(source.notes),
        },
        "targets": list(prepared.request.targets),
        "baseline": prepared.baseline,
        "evaluated_on": prepared.evaluated,
        "notes": list(prepared.notes),
        "pruning": to_jsonable(prepared.curve),
        "costs": to_jsonable(prepared.costs),
        "front": [list(point) for point in front(prepared)],
        "variants": [_variant(made, source.original_size) for made in prepared.made],
        "quantisation": [
            {"variants": names} | to_jsonable(recipe) for names, recipe in recipes(prepared.made)
        ],
    }


def recipes(made: Sequence[Made]) -> list[tuple[list[str], Recipe]]:
    """Recipes with the variants that came of their trials; a mixed program's stands for the one beside it, too."""
    found: dict[int, tuple[list[str], Recipe]] = {}
    for each in made:
        if each.recipe is not None:
            names = found[id(each.recipe.trials)][0] if id(each.recipe.trials) in found else []
            found[id(each.recipe.trials)] = ([*names, each.name], each.recipe)
    return list(found.values())


def front(prepared: Prepared) -> list[tuple[str, str, str]]:
    """Variant, board and device of each point that none on the same board beats in both accuracy and energy.

    Without labels the output error stands for the accuracy; without an energy figure a point is on no front.
    """
    qualities = {made.name: made.quality for made in prepared.made}
    points = {
        (cost.variant, cost.board, cost.device): (_loss(qualities[cost.variant]), cost.energy_mj)
        for cost in prepared.costs
        if cost.energy_mj is not None and cost.variant in qualities
    }
    return [
        key
        for key, (loss, energy) in points.items()
        if not any(
            other <= loss and less <= energy and (other, less) != (loss, energy) and at[1] == key[1]
            for at, (other, less) in points.items()
        )
    ]


def _loss(quality: Quality) -> float:
    return quality.error or 0.0 if quality.accuracy is None else 1 - quality.accuracy


def _variant(made: Made, original: int) -> dict[str, Any]:
    return {
        "name": made.name,
        "format": made.format,
        "precision": made.precision,
        "devices": list(made.devices),
        "bytes": len(made.data),
        "ratio": original / len(made.data),
        "quality": to_jsonable(made.quality),
        "rules": made.recipe.rules if made.recipe else None,
        "float_layers": list(made.recipe.float_layers) if made.recipe else [],
        "places": [to_jsonable(place) for place in made.places],
        "note": made.note,
    }
