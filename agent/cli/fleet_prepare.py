"""``overlaid fleet prepare``: from a trained model to a model folder."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli.fleet_desk import add_command
from agent.cli.output import Commands, add_json, interrupted, one_cell, print_json, print_table, print_wrapped
from agent.errors import RuntimeUnavailable

if TYPE_CHECKING:
    from agent.fleet.prepare.values import Made, Prepared, Recipe

SHOWN_LAYERS = 8
FEW = 3  # names in a cell
WHY = 240  # characters; report.json has them all


def register(commands: Commands[argparse.ArgumentParser]) -> None:
    text = "check, simplify, quantise and measure a trained model: a model folder for pack"
    example = "overlaid fleet prepare net.onnx --calibrate train.npz --eval test.npz --targets cpu,npu -o net"
    parser = add_command(commands, "prepare", _prepare, text, example)
    parser.add_argument("model", type=Path, metavar="MODEL", help="ONNX or TFLite file, float or INT8")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="model folder to make"
    )
    parser.add_argument(
        "--targets",
        default="cpu,gpu,npu",
        metavar="LIST",
        help="with commas: cpu, gpu and overlays (npu, npu-small, a folder with overlay.toml); default: cpu,gpu,npu",
    )
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="NPZ",
        help="samples of the inputs, when something must be quantised (docs/prepare.md)",
    )
    parser.add_argument(
        "--eval", type=Path, metavar="NPZ", help="samples held out, with labels where the model tells classes"
    )
    parser.add_argument(
        "--reference", type=Path, metavar="MODEL", help="the float model that an INT8 MODEL is compared with"
    )
    parser.add_argument(
        "--boards",
        metavar="LIST",
        help="where to measure, with commas (default: local, and simulated ones for overlays and GPUs; '': nowhere)",
    )
    parser.add_argument("--name", default="", help="of the model (default: the file's)")
    parser.add_argument("--version", default="1.0.0", help="of the model (default: 1.0.0)")
    parser.add_argument("--licence", default="unstated", help="of the model's weights (default: unstated)")
    parser.add_argument("--description", default="", metavar="TEXT")
    add_json(parser)


def _prepare(args: argparse.Namespace) -> int:
    from agent.cli.bar import progress_bar, steady

    try:
        from agent.fleet.prepare.costs import boards_for
        from agent.fleet.prepare.prepare import prepare
        from agent.fleet.prepare.report import to_json
        from agent.fleet.prepare.values import Request
    except ImportError as error:
        raise RuntimeUnavailable(f"preparing needs {error.name}: pip install 'overlaid[fleet]'") from error

    targets = _listed(args.targets)
    boards = boards_for(targets) if args.boards is None else _listed(args.boards)
    request = Request(
        model=args.model,
        out=args.output,
        targets=targets,
        boards=boards,
        calibrate=args.calibrate,
        evaluate=args.eval,
        reference=args.reference,
        name=args.name,
        version=args.version,
        description=args.description,
        licence=args.licence,
    )
    with interrupted(f"{args.output} was not made"), progress_bar() as bar, steady(bar) as progress:
        prepared = prepare(request, progress)
    if args.json:
        print_json(to_json(prepared))
    else:
        _print(prepared, args.output)
    return 0


def _listed(text: str) -> tuple[str, ...]:
    return tuple(filter(None, map(str.strip, text.split(","))))


def _print(prepared: Prepared, out: Path) -> None:
    from agent.fleet.prepare.report import recipes

    source = prepared.source
    print_table(
        ("variant", "format", "devices", "bytes", "smaller", "samples", "error", "agree", "accuracy", "note"),
        [_row(made, source.original_size) for made in prepared.made],
        title=one_cell(
            f"{source.name} {prepared.request.version}: {prepared.request.model.name}, {source.original_size} bytes"
            + "".join(f"; {note}" for note in source.notes)
        ),
    )
    print_wrapped(
        f"error and agreement against {prepared.baseline}, on {prepared.evaluated}"
        + "".join(f"; {note}" for note in prepared.notes)
    )
    for names, recipe in recipes(prepared.made):
        _print_recipe(names, recipe)
    for made in prepared.made:
        _print_places(made)
    _print_curve(prepared)
    _print_costs(prepared)
    print(f"\n{out}: next: overlaid fleet pack {out} -o PACKAGE")


def _row(made: Made, original: int) -> tuple[object, ...]:
    quality = made.quality
    return (
        made.name, made.format, ", ".join(made.devices), len(made.data), f"{original / len(made.data):.2f}x",
        quality.samples, _share(quality.error), _share(quality.agreement), _share(quality.accuracy), made.note,
    )  # fmt: skip


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.2%}"


def _print_recipe(names: Sequence[str], recipe: Recipe) -> None:
    print()
    rows = [
        (
            trial.method,
            _few(trial.float_layers),
            _share(trial.quality.error),
            _share(trial.quality.agreement),
            _share(trial.quality.accuracy),
            "chosen" if (trial.method, trial.float_layers) == (recipe.method, recipe.float_layers) else "",
        )
        for trial in recipe.trials
    ]
    columns = ("ranges by", "layers in float", "error", "agree", "accuracy", "")
    print_table(
        columns,
        rows,
        title=f"INT8 by the rules of the {recipe.rules} ({', '.join(names)}): tried on the calibration data",
    )
    print()
    worst = recipe.sensitivity[:SHOWN_LAYERS]
    print_table(
        ("layer", "operator", "parameters", "output error when it alone is INT8"),
        [(each.layer, each.operator, each.parameters, _share(each.error)) for each in worst],
        title=f"sensitivity, the worst {len(worst)} of {len(recipe.sensitivity)} layers",
    )


def _few(names: Sequence[str]) -> str:
    rest = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + rest


def _print_curve(prepared: Prepared) -> None:
    if not prepared.curve:
        return
    rows = [
        (
            point.way,
            f"{point.share:.1%}",
            point.parameters,
            _share(point.quality.error),
            _share(point.quality.agreement),
            _share(point.quality.accuracy),
            f"{point.cpu_ms:.3g}",
        )
        for point in prepared.curve
    ]
    columns = ("pruned", "share", "weights", "error", "agree", "accuracy", "ms on this CPU")
    print()
    print_table(columns, rows, title="pruning the float model, on the calibration data")


def _print_costs(prepared: Prepared) -> None:
    from agent.fleet.prepare.report import front

    if not prepared.costs:
        return
    best = front(prepared)
    rows = [
        (
            cost.variant,
            f"{cost.device} of {cost.board}" + (" (simulated)" if cost.simulated else ""),
            cost.backend,
            f"{cost.p50_ms:.3g}",
            f"{cost.p99_ms:.3g}",
            None if cost.energy_mj is None else f"{cost.energy_mj:.3g}",
            cost.energy,
            "*" if (cost.variant, cost.board, cost.device) in best else "",
        )
        for cost in prepared.costs
    ]
    columns = ("variant", "on", "by", "p50 ms", "p99 ms", "mJ", "energy", "front")
    print()
    print_table(
        columns,
        rows,
        title="cost of an inference; front: nothing else on the board is as accurate and as thrifty",
    )


def _print_places(made: Made) -> None:
    if made.places:
        print(f"\nwhere {made.name} runs")
    for place in made.places:
        why = f" ({textwrap.shorten(place.why, WHY)})" if place.why else ""
        print_wrapped(f"{place.where}: {', '.join(place.operators)}{why}", "  ", "    ")
