"""Smaller float models: the smallest weights zero, or whole channels gone; what that costs and whether it helps."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from agent.devices.cpu import CpuDevice
from agent.fleet.prepare.channels import Net, output_axis, remove, rounded, size_of
from agent.fleet.prepare.executing import exact_answers
from agent.fleet.prepare.quality import MAX_ERROR, good_enough, judge
from agent.fleet.prepare.values import Array, Cost, CurvePoint, Dataset, Made, Progress, Quality, Source
from agent.hal import ModelFile, Session

Way = Literal["magnitude", "channels"]
SHARES: dict[Way, tuple[float, ...]] = {"magnitude": (0.25, 0.5, 0.75), "channels": (0.125, 0.25, 0.5)}
STEP = 8  # channels that go or stay together
SAMPLES = 256
FASTER = 0.95  # of the time of what was not pruned, at most
ROUNDS, RUNS = 5, 20  # of timing, in turns
SUFFIX = "-pruned"


class Pruner:
    """Prunes one float model; judged on the calibration data."""

    def __init__(self, source: Source, data: Dataset, progress: Progress) -> None:
        self._source, self._data, self._progress = source, data.head(SAMPLES), progress
        self._float = exact_answers(source.model, source.inputs, source.outputs, self._data)
        self._baseline = judge(self._float, self._float, self._data.labels, source)
        self._means = _means(source, self._data)

    def curve(self) -> list[tuple[CurvePoint, bytes]]:
        """Every way and share, after the model itself, or nothing where nothing can go; times on this machine's CPU,
        taken in turns."""
        ways: list[tuple[str, float]] = [("none", 0.0)]
        models = [self._source.model]
        for way, shares in SHARES.items():
            for share in shares:
                self._progress(f"pruning {way} {share:.1%}", 0.0)
                made = self._pruned(way, share)
                if made not in models:
                    ways.append((way, share))
                    models.append(made)
        if len(models) == 1:
            return []
        times = list(_timed(self._source, models, self._data, self._progress))
        points = []
        for (kind, part), model, ms in zip(ways, models, times, strict=True):
            got = exact_answers(model, self._source.inputs, self._source.outputs, self._data)
            quality = judge(got, self._float, self._data.labels, self._source)
            points.append((CurvePoint(kind, part, size_of(Net(model)), quality, ms), model))
        return points

    def best(self, curve: Sequence[tuple[CurvePoint, bytes]]) -> tuple[CurvePoint, Source] | None:
        """The fastest that loses no more than quantising may, when it is faster at all."""
        if not curve:
            return None
        whole = curve[0][0].cpu_ms
        found = [
            (point, model)
            for point, model in curve[1:]
            if self._keeps(point.quality) and (point.way == "channels" or point.cpu_ms <= FASTER * whole)
        ]
        if not found:
            return None
        # Fewer parameters rather than the shorter time: of a small model the CPU's is mostly overhead.
        point, model = min(found, key=lambda pair: (pair[0].way != "channels", pair[0].parameters))
        return point, replace(self._source, model=model, came_as="onnx")

    def _keeps(self, quality: Quality) -> bool:
        """Without labels the outputs themselves must be near, too: channels that some data never need may matter."""
        near = quality.accuracy is not None or (quality.error or 0.0) <= MAX_ERROR
        return near and good_enough(quality, self._baseline)

    def _pruned(self, way: Way, share: float) -> bytes:
        net = Net(self._source.model)
        if way == "magnitude":
            for node in net.layers():
                _zero_smallest(net, node.input[1], share)
        else:
            for group in list(net.groups()):
                weights = np.moveaxis(net.constants[group.maker.input[1]], output_axis(group.maker), 0)
                sizes = np.abs(weights.reshape(group.count, -1)).sum(axis=1)
                gone = np.sort(
                    np.argsort(sizes, kind="stable")[: group.count - rounded(group.count, share, STEP)]
                )
                remove(net, group, gone, self._means)
        return net.bytes()


def _zero_smallest(net: Net, name: str, share: float) -> None:
    weights = net.constants[name]
    limit = np.quantile(np.abs(weights), share)
    net.constants[name] = np.where(np.abs(weights) < limit, np.float32(0), weights)


def _means(source: Source, data: Dataset) -> dict[str, Array]:
    """The mean of every layer's input over samples and pixels: of each channel, or of each number of a row."""
    import onnx
    from onnx import shape_inference

    proto = shape_inference.infer_shapes(onnx.load_model_from_string(source.model))
    net = Net(source.model)
    wanted = dict.fromkeys(node.input[0] for node in net.layers())
    known = {each.name: each for each in (*proto.graph.value_info, *proto.graph.input)}
    names = [name for name in wanted if name in known]
    if not names:
        return {}
    del proto.graph.output[:]
    proto.graph.output.extend(known[name] for name in names)
    return _averaged(proto.SerializeToString(), source, names, data)


def _averaged(model: bytes, source: Source, names: Sequence[str], data: Dataset) -> dict[str, Array]:
    from agent.devices.onnx_cpu import load
    from agent.fleet.prepare.executing import BATCH, THREADS, batch

    session = load(model, THREADS)
    step = BATCH if all(spec.dynamic for spec in source.inputs) else 1
    sums: dict[str, Array] = {}
    for start in range(0, data.count, step):
        feed = batch(data.inputs, source.inputs, start, start + step)
        for name, array in zip(names, session.run(list(names), feed), strict=True):
            axes = (0, *range(2, array.ndim))
            weight = len(next(iter(feed.values()))) / data.count if step > 1 else 1 / data.count
            sums[name] = sums.get(name, 0) + array.mean(axis=axes, dtype=np.float64) * weight
    return {name: np.asarray(array, np.float32) for name, array in sums.items()}


def _timed(source: Source, models: Sequence[bytes], data: Dataset, progress: Progress) -> Iterator[float]:
    """Median ms of each, one sample at a time, in turns: what else the machine does hits all of them."""
    sample = {name: array[0, ...] for name, array in data.inputs.items()}
    times: list[list[float]] = [[] for _ in models]
    with tempfile.TemporaryDirectory() as folder:
        sessions: list[Session] = []
        try:
            for index, model in enumerate(models):
                path = Path(folder) / f"{index}.onnx"
                path.write_bytes(model)
                file = ModelFile(path, "onnx", source.inputs, source.outputs)
                sessions.append(CpuDevice().open(file, "onnxruntime"))
            for number in range(ROUNDS):
                progress("timing pruned models", number / ROUNDS)
                for found, session in zip(times, sessions, strict=True):
                    for _ in range(RUNS):
                        started = time.perf_counter()
                        session.run(sample)
                        found.append(time.perf_counter() - started)
        finally:
            for session in sessions:
                session.close()
    for found in times:
        yield statistics.median(found) * 1e3


def marked(made: Made, point: CurvePoint) -> Made:
    """A variant of the pruned model under a name of its own."""
    stem, _, suffix = made.file.rpartition(".")
    note = f"{point.way} pruned by {point.share:.1%}; {made.note}".rstrip("; ")
    return replace(made, name=made.name + SUFFIX, file=f"{stem}{SUFFIX}.{suffix}", note=note)


def faster(made: Sequence[Made], costs: Sequence[Cost]) -> tuple[list[Made], list[str]]:
    """Pruned variants that were faster than what they were pruned from on a device, and a sentence on each."""
    times = {(cost.variant, cost.board, cost.device, cost.backend): cost.p50_ms for cost in costs}
    kept, notes = [], []
    for each in made:
        whole = each.name.removesuffix(SUFFIX)
        gains = {
            f"{key[2]} of {key[1]}": ms / times[(whole, *key[1:])]
            for key, ms in times.items()
            if key[0] == each.name and (whole, *key[1:]) in times
        }
        best = min(gains, key=lambda where: gains[where], default="")
        if best and gains[best] <= FASTER:
            kept.append(each)
            notes.append(f"{each.name} is in: {1 - gains[best]:.0%} faster on {best}")
        else:
            notes.append(f"{each.name} is left out: it was measured no faster than {whole} anywhere")
    return kept, notes
