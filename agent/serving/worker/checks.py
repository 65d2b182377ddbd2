"""Golden vectors: known inputs and what a variant must answer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from agent.devices.tensors import DTYPES, unpack_strings
from agent.errors import TensorError
from agent.hal import ModelFile
from agent.serving.protocol.data import Array
from agent.serving.spec import Golden
from agent.types import TensorSpec


class GoldenData:
    """The samples of a package's golden files, read into memory and checked against the tensors.

    Raises TensorError when a file does not hold ``count`` samples of its tensor.
    """

    def __init__(self, golden: Golden, file: ModelFile) -> None:
        self.count = golden.count
        self._inputs = {s.name: _read(golden.inputs, s, golden.count) for s in file.inputs}
        self._outputs = {s.name: _read(golden.outputs, s, golden.count) for s in file.outputs}

    def inputs(self, sample: int) -> dict[str, Array]:
        """Input tensors of one sample (batch 1)."""
        return {name: array[sample, ...] for name, array in self._inputs.items()}

    def outputs(self, sample: int) -> dict[str, Array]:
        """What must come out, up to the tolerance."""
        return {name: array[sample, ...] for name, array in self._outputs.items()}


def _read(files: Mapping[str, Path], spec: TensorSpec, count: int) -> Any:
    """An array of shape (count, *sample)."""
    path = files.get(spec.name)
    if path is None:
        raise TensorError(f"golden vectors have no file for tensor {spec.name!r}; pack the model again")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TensorError(f"golden file {path} of tensor {spec.name!r}: {error.strerror}") from error
    if not spec.fits(len(data), count):
        raise TensorError(
            f"golden file of tensor {spec.name!r} has {len(data)} bytes; {count} samples of {spec.dtype} "
            f"{list(spec.concrete())} have {count * spec.nbytes()}; pack the model again"
        )
    shape = (count, *spec.concrete())
    if spec.dtype != "BYTES":
        return np.frombuffer(data, DTYPES[spec.dtype]).reshape(shape)
    try:
        return unpack_strings(data, shape)
    except TensorError as error:
        raise TensorError(f"golden file of tensor {spec.name!r}: {error}; pack the model again") from error
