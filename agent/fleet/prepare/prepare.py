"""``overlaid fleet prepare``: from a trained model to a model folder that ``pack`` takes."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from agent.devices.board import open_board
from agent.errors import OverlayLoadError, UsageError
from agent.fleet.appearing import check_absent, check_writable
from agent.fleet.prepare.baseline import find_baseline
from agent.fleet.prepare.costs import measure_costs
from agent.fleet.prepare.dataset import load_dataset, random_dataset
from agent.fleet.prepare.folder import write_folder
from agent.fleet.prepare.onnx_load import load_onnx, read_model
from agent.fleet.prepare.pruning import Pruner, faster, marked
from agent.fleet.prepare.report import to_json
from agent.fleet.prepare.tflite_load import load_tflite
from agent.fleet.prepare.values import (
    CurvePoint,
    Dataset,
    Made,
    Prepared,
    Progress,
    Request,
    Source,
    no_progress,
)
from agent.fleet.prepare.variants import CPU, GOLDEN_SAMPLES, GPU, Makings, make_variants, needs_calibration
from agent.overlay.compiler import TFLITE_MAGIC
from agent.overlay.importers.building import importing
from agent.overlay.spec import find_overlay
from agent.types import check_name, check_version

RANDOM_SAMPLES = 64
FEW = 32  # samples to calibrate on


def prepare(request: Request, progress: Progress = no_progress) -> Prepared:
    """Check, simplify, quantise and measure a model; ``request.out`` appears at the end, whole.

    Raises UsageError, PrepareError (what is wrong with the model or its data), OverlayLoadError (no such overlay),
    DeviceError (ModelLoadError, UnsupportedModel, InferenceError, RuntimeUnavailable), StoreError.
    """
    check_absent(request.out)
    check_writable(request.out)
    _check_request(request)
    progress("reading the model", 0.0)
    source = load(request.model, request.name)
    if request.calibrate is None and needs_calibration(source, request.targets):
        raise UsageError(
            f"{request.model.name} is float and is quantised for CPUs and overlays: give --calibrate data.npz with "
            "some hundred samples of its inputs, or --targets gpu alone"
        )
    reference = None if request.reference is None else load(request.reference)
    calibration = _dataset(request.calibrate, source)
    evaluation = (
        _dataset(request.evaluate, source) or calibration or random_dataset(source.inputs, RANDOM_SAMPLES)
    )
    baseline = find_baseline(source, reference, evaluation, progress)
    makings = Makings(source, request.targets, calibration, evaluation, baseline, progress)
    made = tuple(make_variants(makings))
    curve, pruned = _pruned(makings) if request.boards else ((), ())
    costs, lost = measure_costs(request, source, (*made, *pruned), evaluation, progress)
    faster_ones, why = faster(pruned, costs)
    notes = (*_notes(request, evaluation), *_thin(calibration), *lost, *why)
    prepared = Prepared(
        request, source, baseline.name, evaluation.origin, (*made, *faster_ones), notes, costs, curve
    )
    progress("writing the model folder", 0.0)
    write_folder(prepared, evaluation.head(GOLDEN_SAMPLES).inputs, to_json(prepared), request.out)
    return prepared


def _pruned(makings: Makings) -> tuple[tuple[CurvePoint, ...], tuple[Made, ...]]:
    """What pruning does to a float model, and the variants of the smallest that loses little."""
    if makings.source.quantised or makings.calibration is None:
        return (), ()
    pruner = Pruner(makings.source, makings.calibration, makings.progress)
    curve = pruner.curve()
    points = tuple(point for point, _ in curve)
    best = pruner.best(curve)
    if best is None:
        return points, ()
    point, source = best
    return points, tuple(marked(made, point) for made in make_variants(replace(makings, source=source)))


def load(path: Path, name: str = "") -> Source:
    """A model file, ONNX or TFLite, checked. Raises PrepareError and ModelLoadError."""
    data = read_model(path)
    name = name or _slug(path.stem)
    if data[4:8] == TFLITE_MAGIC:
        with importing("TFLite"):
            return load_tflite(path, data, name)
    with importing("ONNX"):
        return load_onnx(path, data, name)


def _check_request(request: Request) -> None:
    if not request.targets or len(set(request.targets)) != len(request.targets):
        raise UsageError("--targets: name each of cpu, gpu and overlays (npu, npu-small) once")
    for target in request.targets:
        if target not in (CPU, GPU):
            try:
                find_overlay(target)
            except OverlayLoadError as error:
                raise OverlayLoadError(f"--targets: {error}; others are {CPU} and {GPU}") from error
    for board in request.boards:
        with tempfile.TemporaryDirectory() as folder:
            open_board(board, Path(folder))
    try:
        check_name(request.name or _slug(request.model.stem))
        check_version(request.version)
    except ValueError as error:
        raise UsageError(f"{error}; give another --name or --version") from error
    if not request.licence or len(request.licence) > 200 or len(request.description) > 4000:
        raise UsageError("--licence has 1 to 200 characters, --description up to 4000; shorten them")


def _slug(stem: str) -> str:
    """A file's name as a name of a model: [a-z0-9][a-z0-9-]*."""
    return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:63].strip("-") or "model"


def _dataset(path: Path | None, source: Source) -> Dataset | None:
    return None if path is None else load_dataset(path, source.inputs, source.steps)


def _notes(request: Request, evaluation: Dataset) -> tuple[str, ...]:
    if request.evaluate is not None:
        return ()
    if request.calibrate is not None:
        return ("measured on the calibration data, which flatters: give --eval with samples held out",)
    return (
        f"measured on {evaluation.count} samples of random numbers, which says little of real data: give --eval",
    )


def _thin(calibration: Dataset | None) -> Iterator[str]:
    """What the data that ranges were found on cannot say."""
    if calibration is None:
        return
    if calibration.count < FEW:
        yield f"calibrated on {calibration.count} samples, which say little of the ranges: give some hundred"
    for name, array in calibration.inputs.items():
        if array.min() == array.max():
            yield f"input {name!r} is {array.flat[0]} throughout the calibration data: its range is not known"
