"""How near answers are to a baseline's, and how often they are right."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from agent.errors import DatasetError
from agent.fleet.prepare.values import Array, Arrays, Quality, Source, Steps

# What a quantised model may lose: accuracy; agreement where there are no labels (some of the answers that change were
# wrong before); output error where there are no classes.
MAX_DROP, MAX_DISAGREEMENT, MAX_ERROR = 0.005, 0.05, 0.1


def real(arrays: Arrays, steps: Mapping[str, Steps]) -> dict[str, Array]:
    """Quantised outputs as the numbers that they stand for."""
    return {name: steps[name].real(array) if name in steps else array for name, array in arrays.items()}


def judge(got: Arrays, baseline: Arrays | None, labels: NDArray[np.int64] | None, source: Source) -> Quality:
    """Answers of ``source`` or a variant of it, in real numbers. DatasetError when labels do not fit its output."""
    count = len(next(iter(got.values())))
    outputs = source.outputs
    first = _classes(got, source)
    accuracy = None
    if labels is not None:
        if first is None:
            raise DatasetError("the model's outputs are no classes; leave the labels out of the data set")
        classes = got[outputs[0].name].size // count
        if labels.max() >= classes or labels.min() < 0:
            raise DatasetError(
                f"labels are {labels.min()} to {labels.max()}, the model has classes 0 to {classes - 1}; number them "
                "as its output does"
            )
        accuracy = float((first == labels).mean())
    if baseline is None:
        return Quality(count, None, None, accuracy)
    other = _classes(baseline, source)
    agreement = None if first is None or other is None else float((first == other).mean())
    return Quality(count, error(got, baseline), agreement, accuracy)


def error(got: Arrays, baseline: Arrays) -> float:
    """Root mean square of the difference over that of the baseline, the worst output's."""
    worst = 0.0
    for name, want in baseline.items():
        if want.dtype.kind not in "fiu":
            continue
        difference = np.asarray(got[name], np.float64) - np.asarray(want, np.float64)
        size = float(np.sqrt(np.mean(np.square(want, dtype=np.float64))))
        off = float(np.sqrt(np.mean(np.square(difference))))
        worst = max(worst, off / size if size else (0.0 if off == 0 else math.inf))
    return worst


def _classes(arrays: Arrays, source: Source) -> NDArray[np.int64] | None:
    """The largest of the one output's elements, sample by sample; None when these are no classes: no vector, or as many
    as an input has elements, which is what an autoencoder gives."""
    if len(source.outputs) != 1:
        return None
    array = arrays[source.outputs[0].name]
    flat = array.reshape(len(array), -1)
    sizes = {math.prod(spec.concrete()) for spec in source.inputs}
    if flat.shape[1] < 2 or flat.shape[1] != max(array.shape[1:]) or flat.shape[1] in sizes:
        return None
    return np.asarray(flat.argmax(axis=1), np.int64)


def rank(quality: Quality) -> tuple[float, float]:
    """Smaller is better: accuracy first, then the output error. (Agreement on some hundred samples is coarser.)"""
    return (-(quality.accuracy or 0.0), quality.error or 0.0)


def good_enough(quality: Quality, baseline: Quality) -> bool:
    """Whether a quantised model may be used as it is."""
    if quality.accuracy is not None and baseline.accuracy is not None:
        return quality.accuracy >= baseline.accuracy - MAX_DROP
    if quality.agreement is not None:
        return quality.agreement >= 1 - MAX_DISAGREEMENT
    return (quality.error or 0.0) <= MAX_ERROR
