"""The forms of a model that go into its folder, each with its golden answers and what it lost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from agent.errors import (
    DeviceError,
    DynamicShape,
    InferenceError,
    ModelLoadError,
    UnsupportedModel,
    UsageError,
)
from agent.fleet.prepare.baseline import Baseline
from agent.fleet.prepare.choosing import Chooser
from agent.fleet.prepare.executing import answers, exact_answers
from agent.fleet.prepare.onnx_checks import check_shapes, listed
from agent.fleet.prepare.quality import judge, rank, real
from agent.fleet.prepare.quantising import LAYERS, OVERLAY_OPERATORS, layers_of, quantise
from agent.fleet.prepare.values import Array, Arrays, Dataset, Made, Place, Progress, Quality, Recipe, Source
from agent.types import OverlayRef

CPU, GPU = "cpu", "gpu"
MIXED = "-mixed"  # of a program with layers in float
GOLDEN_SAMPLES = 16
PROGRAM_SAMPLES = 1024  # numpy computes an overlay's bits slowly
FLOAT_TOLERANCE = 1e-3
# Steps of an INT8 output between runtimes that round ties differently, layer after layer; programs give equal bytes.
INT8_STEPS, PROGRAM_STEPS = 4, 1


@dataclass(frozen=True, slots=True)
class Makings:
    """What every variant is made from."""

    source: Source
    targets: tuple[str, ...]
    calibration: Dataset | None
    evaluation: Dataset
    baseline: Baseline
    progress: Progress

    @property
    def overlays(self) -> tuple[str, ...]:
        return tuple(target for target in self.targets if target not in (CPU, GPU))

    @property
    def runtimes(self) -> tuple[str, ...]:
        """Devices that run models themselves, not as programs."""
        return tuple(target for target in (CPU, GPU) if target in self.targets)


def needs_calibration(source: Source, targets: Sequence[str]) -> bool:
    """Whether something must be quantised: for CPUs and overlays, unless somebody has done it."""
    return not source.quantised and any(target != GPU for target in targets)


def make_variants(makings: Makings) -> Iterator[Made]:
    """Raises UsageError (nothing for these targets), UnsupportedModel, DynamicShape, and what quantising, compiling and
    running raise; the texts name the target."""
    source = makings.source
    if source.quantised:
        yield from _as_it_came(makings)
        for name in makings.overlays:
            yield _program(makings, name, source.model, None)
        return
    if makings.runtimes:
        yield _float(makings)
    if source.came_as == "tflite" and CPU in makings.targets:
        data, note = source.original, "the file as it came"
        yield _made(makings, "fp32-tflite", "tflite", "fp32", (CPU,), data, note=note)
    if needs_calibration(source, makings.targets):
        yield from _quantised(makings)


def _as_it_came(makings: Makings) -> Iterator[Made]:
    source = makings.source
    devices = makings.runtimes if source.format == "onnx" else tuple(set(makings.runtimes) & {CPU})
    if devices:
        yield _made(
            makings, "int8", source.format, "int8", devices, source.model,
            steps=INT8_STEPS, note="the file as it came: it was quantised already",
        )  # fmt: skip
    elif not makings.overlays:
        raise UsageError(
            "an INT8 TFLite file runs on CPUs and as an overlay program, not on GPUs as it is; add cpu or npu to "
            "--targets, or give the float model"
        )


def _float(makings: Makings) -> Made:
    source = makings.source
    precision = _precision(source.model)
    return _made(makings, precision, "onnx", precision, makings.runtimes, source.model)


def _precision(model: bytes) -> Literal["fp32", "fp16"]:
    """Of most of the weights."""
    import onnx

    sizes = {1: 0, 10: 0}  # TensorProto.FLOAT, FLOAT16
    for each in onnx.load_model_from_string(model).graph.initializer:
        if each.data_type in sizes:
            sizes[each.data_type] += math.prod(each.dims)
    return "fp16" if sizes[10] > sizes[1] else "fp32"


def _quantised(makings: Makings) -> Iterator[Made]:
    source = makings.source
    assert makings.calibration is not None  # prepare asks for it
    chooser = Chooser(source, makings.calibration, makings.progress)
    if CPU in makings.targets:
        recipe = chooser.recipe("cpu")
        ranges = chooser.ranges(recipe.method)
        # GPUs fuse QDQ themselves; QLinear operators are the CPU's.
        for name, devices in (("int8", makings.runtimes), ("int8-qlinear", (CPU,))):
            model = quantise(source.model, ranges, "cpu", recipe.float_layers, qlinear=name != "int8")
            yield _made(makings, name, "onnx", "int8", devices, model, steps=INT8_STEPS, recipe=recipe)
    if makings.overlays:
        _check_sizes(source)
        _check_layers(source, makings.overlays)
        recipe = chooser.recipe("npu")
        whole = all_int8(recipe)
        for each in (whole, recipe) if recipe.float_layers else (whole,):
            model = quantise(source.model, chooser.ranges(each.method), "npu", each.float_layers)
            for overlay in makings.overlays:
                yield _program(makings, overlay, model, each)


def all_int8(recipe: Recipe) -> Recipe:
    """The best without layers in float.

    Those leave an overlay for the CPU, which may take many times as long: a node gets both programs, and chooses.
    """
    best = min((each for each in recipe.trials if not each.float_layers), key=lambda each: rank(each.quality))
    return replace(recipe, method=best.method, float_layers=())


def _check_layers(source: Source, overlays: Sequence[str]) -> None:
    """UnsupportedModel for a model of which overlays run nothing, however it is quantised."""
    import onnx

    if not layers_of(source.model, "npu"):
        nodes = onnx.load_model_from_string(source.model).graph.node
        raise UnsupportedModel(
            f"target {', '.join(overlays)}: an overlay runs none of {listed(nodes)}; use operators such as "
            f"{', '.join(sorted(OVERLAY_OPERATORS & set(LAYERS)))}, or leave it out of --targets"
        )


def _check_sizes(source: Source) -> None:
    """Overlay programs are laid out when they are compiled."""
    import onnx

    from agent.overlay.importers.onnx_model import read_onnx

    read = read_onnx(source.model)

    def shape(name: str) -> tuple[int, ...] | None:
        try:
            return read.shape(name)
        except ModelLoadError:
            return None

    try:
        check_shapes(onnx.load_model_from_string(source.model), shape)
    except DynamicShape as error:
        raise DynamicShape(f"target npu: {error}, or leave the overlay out of --targets") from error


def _program(makings: Makings, overlay: str, model: bytes, recipe: Recipe | None) -> Made:
    from agent.overlay.compiler import compile_model
    from agent.overlay.programfile import write_program
    from agent.overlay.report import make_report
    from agent.overlay.spec import find_overlay, read_spec

    spec = read_spec(find_overlay(overlay))
    name = spec.id + (MIXED if recipe is not None and recipe.float_layers else "")
    try:
        program = compile_model(
            model,
            spec,
            lambda _text, share: makings.progress(f"compiling for {spec.id}", share),
            makings.source.name,
        )
    except DeviceError as error:
        raise type(error)(f"target {overlay}: {error}; or leave it out of --targets") from error
    report = make_report(program, spec)
    layers = tuple(layer.name for segment in report.segments for layer in segment.layers)
    asides = tuple(Place(aside.where, aside.operators, aside.why) for aside in report.asides)
    on_cpu = any(place.where == CPU for place in asides)
    return _made(
        makings, name, "npu", "int8", ("fpga", GPU, CPU), write_program(program), recipe=recipe,
        steps=INT8_STEPS if on_cpu else PROGRAM_STEPS, origin=model, places=(Place("overlay", layers, ""), *asides),
        overlay=OverlayRef(spec.id, spec.version, spec.lanes),
        note=f"{report.cycles} cycles, {report.milliseconds:.3g} ms at {spec.clock.hz // 10**6} MHz by the cycle model",
    )  # fmt: skip


def _made(
    makings: Makings,
    name: str,
    format: Literal["onnx", "tflite", "npu"],
    precision: Literal["fp32", "fp16", "int8"],
    devices: tuple[str, ...],
    data: bytes,
    *,
    steps: int = 0,
    origin: bytes = b"",
    **rest: Any,
) -> Made:
    """``steps``: tolerance in steps of the output, as ``origin`` (the model itself by default) quantises it."""
    source, progress, text = makings.source, makings.progress, f"measuring {name}"
    progress(text, 0.0)
    samples = makings.evaluation.head(PROGRAM_SAMPLES) if format == "npu" else makings.evaluation
    golden = answers(data, format, source.inputs, source.outputs, samples.head(GOLDEN_SAMPLES))
    for key, array in golden.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InferenceError(
                f"variant {name}: output {key!r} is NaN or infinite on {samples.origin}; check the data's scale, and "
                "the model"
            )
    if format == "onnx":
        found = exact_answers(data, source.inputs, source.outputs, samples, exact=False)
    else:
        found = answers(data, format, source.inputs, source.outputs, samples, progress, text)
    tolerance = FLOAT_TOLERANCE if not steps else steps * _step(origin or data, source, golden)
    return Made(
        name=name, format=format, precision=precision, devices=devices, file=f"{source.name}-{name}.{format}",
        data=data, outputs=golden, atol=tolerance, rtol=FLOAT_TOLERANCE if not steps else 0.0,
        quality=_quality(makings, found, samples), **rest,
    )  # fmt: skip


def _quality(makings: Makings, found: Arrays, samples: Dataset) -> Quality:
    baseline = {name: array[: samples.count] for name, array in makings.baseline.answers.items()}
    return judge(real(found, makings.source.steps), baseline, samples.labels, makings.source)


def _step(model: bytes, source: Source, golden: Arrays) -> float:
    """The largest step between neighbouring values of an output; 1/255 of its range where it is not quantised."""
    return max(_output_step(model, spec.name, golden[spec.name]) for spec in source.outputs)


def _output_step(model: bytes, name: str, golden: Array) -> float:
    if golden.dtype.kind in "iu":
        return 1.0
    scale = None if model[4:8] == b"TFL3" else _dequantised_by(model, name)
    return scale or max(float(np.ptp(golden)) / 255, FLOAT_TOLERANCE / INT8_STEPS)


def _dequantised_by(model: bytes, name: str) -> float | None:
    """The scale of the DequantizeLinear that gives an output."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_model_from_string(model).graph
    for node in graph.node:
        if name in node.output and node.op_type == "DequantizeLinear":
            scales = [each for each in graph.initializer if each.name == node.input[1]]
            return float(numpy_helper.to_array(scales[0]).max()) if scales else None
    return None
