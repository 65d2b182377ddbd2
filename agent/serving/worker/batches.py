"""Several requests in one run: what is joined, and what each gets back. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from agent.errors import InferenceError
from agent.serving.protocol.data import Array
from agent.types import TensorSpec

Tensors = Mapping[str, Array]


def joinable(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bool:
    """True when every tensor's first dimension is free: what a run takes and gives then is a list of samples."""
    return bool(inputs) and bool(outputs) and all(spec.dynamic for spec in (*inputs, *outputs))


def members(rows: Sequence[int], most: int) -> int:
    """How many of the first requests, with so many samples each, go into a run: one at least, no others beyond
    ``most`` samples."""
    total = rows[0]
    for count, size in enumerate(rows[1:], start=1):
        total += size
        if total > most:
            return count
    return len(rows)


def join(requests: Sequence[Tensors]) -> dict[str, Array]:
    """One run's tensors, the requests' samples one after another."""
    return {name: np.concatenate([request[name] for request in requests]) for name in requests[0]}


def split(outputs: Tensors, rows: Sequence[int]) -> list[dict[str, Array]]:
    """Each request's own samples, as views. InferenceError when an output does not have one row for each sample."""
    total = sum(rows)
    for name, array in outputs.items():
        if not array.ndim or len(array) != total:
            raise InferenceError(f"output {name!r} has shape {list(array.shape)} for {total} samples")
    parts: list[dict[str, Array]] = []
    start = 0
    for size in rows:
        parts.append({name: array[start : start + size] for name, array in outputs.items()})
        start += size
    return parts
