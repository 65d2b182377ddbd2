"""Golden vectors: known inputs and what a variant must answer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from agent.devices.tensors import DTYPES
from agent.errors import TensorError
from agent.hal import ModelFile
from agent.serving.codec import Array
from agent.serving.spec import Golden
from agent.types import TensorSpec


class GoldenData:
    """The samples of a package's golden files, read into memory and checked against the tensors.

    Raises TensorError when a file does not hold ``count`` samples of its tensor.
    """

    def __init__(self, golden: Golden, file: ModelFile) -> None:
        self._inputs = {s.name: _read(golden.inputs, s, golden.count) for s in file.inputs}
        self._outputs = {s.name: _read(golden.outputs, s, golden.count) for s in file.outputs}

    def inputs(self, sample: int) -> dict[str, Array]:
        """Input tensors of one sample (batch 1)."""
        return {name: array[sample] for name, array in self._inputs.items()}

    def outputs(self, sample: int) -> dict[str, Array]:
        """What must come out, up to the tolerance."""
        return {name: array[sample] for name, array in self._outputs.items()}


def compare(got: Mapping[str, Array], want: Mapping[str, Array], atol: float, rtol: float) -> str | None:
    """None when every output agrees, else which differs most and by how much."""
    for name, expected in want.items():
        actual = got[name]
        if actual.shape != expected.shape:
            return f"output {name!r} has shape {list(actual.shape)}, golden is {list(expected.shape)}"
        wide, target = actual.astype(np.float64), expected.astype(np.float64)
        allowed = atol + rtol * np.abs(target)
        with np.errstate(invalid="ignore"):
            error = np.abs(wide - target)
        # Exactly equal covers infinities and integers beyond 2**53; NaN agrees with NaN.
        wrong = ~((error <= allowed) | (actual == expected) | (np.isnan(wide) & np.isnan(target)))
        if wrong.any():
            excess = np.where(wrong, np.nan_to_num(error - allowed, nan=np.inf), -np.inf)
            worst = np.unravel_index(int(np.argmax(excess)), wrong.shape)
            return (
                f"output {name!r}: {int(wrong.sum())} of {wrong.size} values differ, worst at "
                f"{[int(index) for index in worst]}: got {wide[worst]:.6g}, golden {target[worst]:.6g}, "
                f"allowed difference {allowed[worst]:.3g}"
            )
    return None


def _read(files: Mapping[str, Path], spec: TensorSpec, count: int) -> Any:
    """An array of shape (count, *sample)."""
    path = files.get(spec.name)
    if path is None:
        raise TensorError(f"golden vectors have no file for tensor {spec.name!r}; pack the model again")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TensorError(f"golden file {path} of tensor {spec.name!r}: {error.strerror}") from error
    want = count * spec.nbytes()
    if len(data) != want:
        raise TensorError(
            f"golden file of tensor {spec.name!r} has {len(data)} bytes; {count} samples of {spec.dtype} "
            f"{list(spec.concrete())} have {want}; pack the model again"
        )
    return np.frombuffer(data, DTYPES[spec.dtype]).reshape((count, *spec.concrete()))
