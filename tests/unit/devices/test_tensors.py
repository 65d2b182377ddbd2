from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agent.devices.tensors import DTYPES, Found, agree, check_inputs
from agent.errors import ModelLoadError, TensorError
from agent.types import DTYPE_SIZES, TensorSpec

A, B = TensorSpec("a", "INT8", (-1, 2)), TensorSpec("b", "FP16", (-1,))


def tensors(a: int, b: int) -> dict[str, Any]:
    return {"a": np.zeros((a, 2), np.int8), "b": np.zeros(b, np.float16)}


def test_every_datatype_of_the_protocol_has_its_size() -> None:
    lengths = {"BYTES": 4}  # of a string's length
    assert {name: dtype.itemsize for name, dtype in DTYPES.items()} | lengths == DTYPE_SIZES


def test_free_dimensions_share_one_batch() -> None:
    assert check_inputs([A, B], tensors(3, 3)) == 3
    with pytest.raises(TensorError, match=r"'b': wanted FP16 \[any\] with batch 3 .*, got FP16 \[2\]"):
        check_inputs([A, B], tensors(3, 2))


def test_a_scalar_and_a_fixed_shape() -> None:
    specs = [TensorSpec("s", "FP32", ()), TensorSpec("f", "BOOL", (2,))]
    assert check_inputs(specs, {"s": np.array(1, np.float32), "f": np.zeros(2, np.bool_)}) == 1
    with pytest.raises(TensorError, match=r"'s': wanted FP32 \[\], got FP32 \[1\]"):
        check_inputs(specs, {"s": np.zeros(1, np.float32), "f": np.zeros(2, np.bool_)})


def test_open_sizes_are_filled_in_from_the_manifest_in_the_runtimes_order() -> None:
    found = [Found("b", "FP16", (None,)), Found("a", "INT8", (None, None))]
    assert agree([A, B], found, "input") == (B, A)


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c"], ["a", "c"]])
def test_missing_and_extra_tensors(names: list[str]) -> None:
    with pytest.raises(ModelLoadError, match="the manifest promises outputs"):
        agree([A, B], [Found(name, "INT8", (None, 2)) for name in names], "output")


def test_the_error_shows_open_sizes() -> None:
    with pytest.raises(
        ModelLoadError,
        match=r"input 'a': .* promises INT8 \[any, 2\], .* has INT8 \[any, 3, any\]",
    ):
        agree([A], [Found("a", "INT8", (None, 3, None))], "input")
