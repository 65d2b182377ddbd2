"""Calibration and evaluation data: .npz archives, checked against the model's inputs."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.devices.tensors import DTYPES
from agent.errors import DatasetError
from agent.fleet.prepare.values import Array, Dataset, Steps
from agent.types import TensorSpec

LABELS = "labels"
MAX_BYTES = 4 << 30  # of a data set, unpacked
RANDOM = "random numbers"
# What numpy and zipfile make of corrupt, encrypted (RuntimeError) and unusual archives.
UNREADABLE = (
    ValueError, EOFError, SyntaxError, TokenError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def load_dataset(path: Path, inputs: Sequence[TensorSpec], steps: Mapping[str, Steps]) -> Dataset:
    """Samples from an archive that numpy.savez made: an array for each input, by its name, and perhaps ``labels``.

    With one input its array may have any name. Arrays are ``(n, *sample)``, a sample's leading 1 may be left out. Real
    numbers for a quantised integer input are quantised by ``steps``. Raises DatasetError.
    """
    arrays = _read(path)
    labels = _labels(path, arrays.pop(LABELS, None))
    found = _named(path, arrays, inputs)
    made = {spec.name: _fitted(path, found[spec.name], spec, steps.get(spec.name)) for spec in inputs}
    counts = {name: len(array) for name, array in made.items()}
    if labels is not None:
        counts[LABELS] = len(labels)
    if len(set(counts.values())) != 1:
        raise DatasetError(
            f"{path}: its arrays hold different numbers of samples, {counts}; give each as many"
        )
    return Dataset(made, labels, path.name)


def random_dataset(inputs: Sequence[TensorSpec], count: int) -> Dataset:
    """Integers over their whole range, real numbers from 0 to 1; the same every time."""
    rng = np.random.default_rng(0)
    return Dataset(
        {spec.name: _random(rng, (count, *spec.concrete()), spec) for spec in inputs}, None, RANDOM
    )


def _random(rng: np.random.Generator, shape: tuple[int, ...], spec: TensorSpec) -> Array:
    dtype = _dtype(spec)
    if dtype.kind == "f":
        return rng.random(shape).astype(dtype)
    limits = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return rng.integers(limits[0], limits[1], shape, endpoint=True, dtype=np.int64).astype(dtype)


def _dtype(spec: TensorSpec) -> np.dtype[Any]:
    if spec.dtype == "BYTES":
        raise DatasetError(
            f"input {spec.name!r} takes strings; write its model.toml by hand (docs/package.md)"
        )
    return np.dtype(DTYPES[spec.dtype])


def _read(path: Path) -> dict[str, Array]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MAX_BYTES:
            raise DatasetError(
                f"{path} holds {size} bytes, more than {MAX_BYTES}; a few hundred samples are enough"
            )
        with np.load(path, allow_pickle=False) as loaded:
            found = {name: loaded[name] for name in loaded.files}
        return {name: array for name, array in found.items() if isinstance(array, np.ndarray)}
    except OSError as error:
        raise DatasetError(
            f"{path}: {error.strerror or error}; name a file that this user can read"
        ) from error
    except UNREADABLE as error:
        raise DatasetError(
            f"{path} is no archive of arrays ({str(error)[:120]}); numpy.savez makes one"
        ) from error


def _labels(path: Path, labels: Array | None) -> NDArray[np.int64] | None:
    if labels is None:
        return None
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise DatasetError(
            f"{path}: {LABELS} are {labels.dtype} {list(labels.shape)}; give one integer for each sample, its class"
        )
    return labels.astype(np.int64)


def _named(path: Path, arrays: dict[str, Array], inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    names = [spec.name for spec in inputs]
    if len(names) == 1 and len(arrays) == 1:
        return {names[0]: next(iter(arrays.values()))}
    missing = [name for name in names if name not in arrays]
    unread = [name for name in arrays if name not in names]
    if missing:
        raise DatasetError(
            f"{path} has no array {missing[0]!r}, it has {sorted(arrays)}; name an array for each input: {names}"
        )
    if unread:
        raise DatasetError(
            f"{path}: {unread[0]!r} is no input of the model, which has {names}; call classes {LABELS!r}, and leave "
            "other arrays out"
        )
    return arrays


def _fitted(path: Path, array: Array, spec: TensorSpec, steps: Steps | None) -> Array:
    sample, dtype = spec.concrete(), _dtype(spec)
    shapes = [sample] + ([sample[1:]] if sample[:1] == (1,) else [])
    if array.ndim == 0 or array.shape[1:] not in shapes:
        raise DatasetError(
            f"{path}: input {spec.name!r} needs an array of [n, {', '.join(map(str, shapes[-1]))}], the file's is "
            f"{list(array.shape)}{_transposed(array, shapes[-1])}"
        )
    if not len(array):
        raise DatasetError(f"{path}: input {spec.name!r} holds no samples; give some hundred")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DatasetError(f"{path}: input {spec.name!r} holds NaN or infinity; leave these samples out")
    if steps is not None and array.dtype.kind == "f":
        array = steps.integers(array, dtype)
    if array.dtype != dtype and not (array.dtype.kind == "f" and dtype.kind == "f"):
        raise DatasetError(
            f"{path}: input {spec.name!r} takes {spec.dtype}, the file holds {array.dtype}; convert the array as the "
            "model's own preprocessing does"
        )
    with np.errstate(over="ignore"):
        fitted = np.ascontiguousarray(array, dtype).reshape(len(array), *sample)
    if dtype.kind == "f" and not np.isfinite(fitted).all():
        raise DatasetError(
            f"{path}: input {spec.name!r} holds numbers beyond {spec.dtype}; scale the samples"
        )
    return fitted


def _transposed(array: Array, sample: tuple[int, ...]) -> str:
    """A hint when only the order of the axes is wrong."""
    if len(sample) == 3 and array.ndim == 4 and array.shape[1:] != sample:
        if array.shape[1:] == (sample[1], sample[2], sample[0]):
            return "; the channels come last: transpose(0, 3, 1, 2)"
        if array.shape[1:] == (sample[2], sample[0], sample[1]):
            return "; the channels come first: transpose(0, 2, 3, 1)"
    return "; reshape it as the model takes it"
