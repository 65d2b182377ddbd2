"""How near answers are to a baseline's, and how often they are right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from agent.errors import DatasetError
from agent.fleet.prepare.values import Array, Arrays, Quality, Steps
from agent.types import TensorSpec

MAX_DROP = 0.005  # of accuracy, or of agreement where there are no labels
MAX_ERROR = 0.1  # of outputs that are no classes


def real(arrays: Arrays, steps: Mapping[str, Steps]) -> dict[str, Array]:
    """Quantised outputs as the numbers that they stand for."""
    return {name: steps[name].real(array) if name in steps else array for name, array in arrays.items()}


def judge(
    got: Arrays, baseline: Arrays | None, labels: NDArray[np.int64] | None, outputs: Sequence[TensorSpec]
) -> Quality:
    """Both in real numbers. DatasetError when labels do not fit the model's output."""
    count = len(next(iter(got.values())))
    first = _classes(got, outputs)
    accuracy = None
    if labels is not None:
        if first is None:
            raise DatasetError("the model's outputs are no classes; leave the labels out of the data set")
        classes = got[outputs[0].name].size // count
        if labels.max() >= classes or labels.min() < 0:
            raise DatasetError(f"labels are {labels.min()} to {labels.max()}, the model has classes 0 to {classes - 1}")
        accuracy = float((first == labels).mean())
    if baseline is None:
        return Quality(count, None, None, accuracy)
    other = _classes(baseline, outputs)
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


def _classes(arrays: Arrays, outputs: Sequence[TensorSpec]) -> NDArray[np.int64] | None:
    """The largest of the one output's elements, sample by sample; None when it is no vector of classes."""
    if len(outputs) != 1:
        return None
    array = arrays[outputs[0].name]
    flat = array.reshape(len(array), -1)
    if flat.shape[1] < 2 or flat.shape[1] != max(array.shape[1:]) or array.dtype.kind not in "fiu":
        return None
    return np.asarray(flat.argmax(axis=1), np.int64)


def rank(quality: Quality) -> tuple[float, float]:
    """Smaller is better: what was lost of accuracy, or else of agreement; then the output error."""
    kept = quality.accuracy if quality.accuracy is not None else quality.agreement
    return (0.0 if kept is None else -kept, quality.error or 0.0)


def good_enough(quality: Quality, baseline: Quality) -> bool:
    """Whether a quantised model may be used as it is."""
    if quality.accuracy is not None and baseline.accuracy is not None:
        return quality.accuracy >= baseline.accuracy - MAX_DROP
    if quality.agreement is not None and quality.samples >= 1 / MAX_DROP:
        return quality.agreement >= 1 - MAX_DROP
    return (quality.error or 0.0) <= MAX_ERROR
