"""The report as one HTML page that needs nothing else: tables and drawings of its figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from agent.fleet.prepare.drawing import Point, plot

Report = Mapping[str, Any]
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #1f2328 }
h1, h2 { line-height: 1.25 }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; display: block; overflow-x: auto }
th, td { padding: .25rem .75rem; border-bottom: 1px solid #d1d9e0; text-align: left }
td { font-variant-numeric: tabular-nums }
td:last-child { min-width: 12rem }
td.number { text-align: right }
svg { max-width: 100%; height: auto }
svg text { font: 12px system-ui, sans-serif }
.simulated { color: #9a6700 }
"""


def make_page(report: Report) -> str:
    """The page of a report as ``report.to_json`` makes it."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    model = report["model"]
    title = escape(f"{model['name']} {model['version']}")
    yield f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    yield f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body><h1>{title}</h1>'
    came = f"{model['file']}: {model['format']}, {model['bytes']:,} bytes"
    yield f"<p>{escape('; '.join([came, *model['notes']]))}. Targets: {escape(', '.join(report['targets']))}.</p>"
    yield f"<p>Errors and agreement are against {escape(report['baseline'])}, on {escape(report['evaluated_on'])}.</p>"
    yield from _list(report["notes"])
    yield "<h2>Variants</h2>"
    yield from _variants(report)
    yield "<h2>Cost of an inference</h2>"
    yield from _costs(report)
    if report["pruning"]:
        yield "<h2>Pruning the float model</h2>"
        yield "<p>On the calibration data; times on the CPU of the machine that prepared it.</p>"
        yield from _curve(report["pruning"])
    for recipe in report["quantisation"]:
        yield from _recipe(recipe)
    yield "<h2>Where layers run</h2>"
    yield from _places(report["variants"])
    yield "</body></html>"


def _list(texts: Sequence[str]) -> Iterator[str]:
    if texts:
        yield f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: object) -> str:
    if value is None:
        return "<td>–</td>"
    if isinstance(value, int | float):
        return (
            f'<td class="number">{value:,}</td>'
            if isinstance(value, int)
            else f'<td class="number">{value:.3g}</td>'
        )
    return f"<td>{escape(str(value))}</td>"


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{value:.2%}"


def _judged(quality: Mapping[str, Any]) -> tuple[str | None, str | None, str | None]:
    return _percent(quality["error"]), _percent(quality["agreement"]), _percent(quality["accuracy"])


def _variants(report: Report) -> Iterator[str]:
    columns = (
        "variant",
        "format",
        "devices",
        "bytes",
        "smaller",
        "samples",
        "error",
        "agreement",
        "accuracy",
        "note",
    )
    yield _table(
        columns,
        [
            (
                each["name"], each["format"], ", ".join(each["devices"]), each["bytes"], f"{each['ratio']:.2f}×",
                each["quality"]["samples"], *_judged(each["quality"]), each["note"],
            )
            for each in report["variants"]
        ],
    )  # fmt: skip


def _costs(report: Report) -> Iterator[str]:
    costs = report["costs"]
    if not costs:
        yield "<p>Nothing was measured.</p>"
        return
    best = {tuple(point) for point in report["front"]}
    rows = [
        (
            cost["variant"], cost["board"], cost["device"], cost["backend"], float(cost["p50_ms"]),
            float(cost["p99_ms"]), cost["energy_mj"], cost["energy"],
            "on the front" if (cost["variant"], cost["board"], cost["device"]) in best else "",
        )
        for cost in costs
    ]  # fmt: skip
    points = list(_cost_points(report, best))
    if points:
        labelled = report["variants"][0]["quality"]["accuracy"] is not None
        yield plot(points, "mJ per inference", "accuracy, %" if labelled else "output error, %")
    if any(cost["simulated"] for cost in costs):
        yield '<p class="simulated">Boards called sim: are simulated: their times and energies are modelled.</p>'
    yield _table(("variant", "board", "device", "by", "p50 ms", "p99 ms", "mJ", "energy", ""), rows)


def _cost_points(report: Report, best: set[tuple[str, ...]]) -> Iterator[Point]:
    qualities = {each["name"]: each["quality"] for each in report["variants"]}
    for cost in report["costs"]:
        quality = qualities.get(cost["variant"])
        if quality is None or cost["energy_mj"] is None:
            continue
        loss = quality["error"] if quality["accuracy"] is None else quality["accuracy"]
        at = (cost["variant"], cost["board"], cost["device"])
        hint = f"{cost['variant']} on {cost['device']} of {cost['board']}: {cost['energy_mj']:.3g} mJ"
        series = f"{cost['device']} of {cost['board']}"
        yield Point(
            cost["energy_mj"], 100 * (loss or 0.0), series, cost["variant"] if at in best else "", hint
        )


def _curve(curve: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    labelled = curve[0]["quality"]["accuracy"] is not None
    key = "accuracy" if labelled else "error"
    points = [
        Point(
            each["cpu_ms"], 100 * (each["quality"][key] or 0.0), each["way"], f"{100 * each['share']:.3g} %",
            f"{each['way']} {each['share']:.1%}: {each['parameters']:,} weights, {each['cpu_ms']:.3g} ms",
        )
        for each in curve
    ]  # fmt: skip
    yield plot(points, "ms", "accuracy, %" if labelled else "output error, %")
    rows = [
        (each["way"], f"{each['share']:.1%}", each["parameters"], *_judged(each["quality"]), each["cpu_ms"])
        for each in curve
    ]
    yield _table(("pruned", "share", "weights", "error", "agreement", "accuracy", "ms"), rows)


def _recipe(recipe: Mapping[str, Any]) -> Iterator[str]:
    chosen = (recipe["method"], recipe["float_layers"])
    yield f"<h2>INT8 by the rules of the {escape(recipe['rules'])}: {escape(', '.join(recipe['variants']))}</h2>"
    rows = [
        (
            trial["method"], ", ".join(trial["float_layers"]), *_judged(trial["quality"]),
            "chosen" if (trial["method"], trial["float_layers"]) == chosen else "",
        )
        for trial in recipe["trials"]
    ]  # fmt: skip
    yield _table(("ranges by", "layers in float", "error", "agreement", "accuracy", ""), rows)
    yield "<p>How far the output is off when a layer alone is INT8:</p>"
    layers = [
        (each["layer"], each["operator"], each["parameters"], _percent(each["error"]))
        for each in recipe["sensitivity"]
    ]
    yield _table(("layer", "operator", "parameters", "output error"), layers)


def _places(variants: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    rows = [
        (each["name"], place["where"], ", ".join(place["operators"]), place["why"])
        for each in variants
        for place in each["places"]
    ]
    yield (
        _table(("variant", "on", "layers", "why"), rows)
        if rows
        else "<p>All on the device of the variant.</p>"
    )
