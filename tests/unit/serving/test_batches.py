"""Several requests in a run: joined and told apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import InferenceError
from agent.serving.worker.batches import join, joinable, members, split
from agent.types import TensorSpec

SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=12)


@given(SIZES, st.integers(1, 20))
def test_a_run_takes_the_first_ones_that_fit_and_one_at_least(sizes: list[int], most: int) -> None:
    count = members(sizes, most)
    assert 1 <= count <= len(sizes)
    assert count == 1 or sum(sizes[:count]) <= most
    assert count == len(sizes) or sum(sizes[: count + 1]) > most


@given(SIZES)
def test_everybody_gets_back_what_belongs_to_them(sizes: list[int]) -> None:
    requests = [
        {
            "x": np.full((size, 2), number, np.float32),
            "text": np.array([[f"{number}".encode()]] * size, np.object_),
        }
        for number, size in enumerate(sizes)
    ]
    together = join(requests)
    assert together["x"].shape == (sum(sizes), 2) and together["x"].flags.c_contiguous
    for request, part in zip(requests, split(together, sizes), strict=True):
        assert part.keys() == request.keys()
        for name, array in request.items():
            np.testing.assert_array_equal(part[name], array)


@pytest.mark.parametrize("shape", [(), (1, 4), (4,), (6, 1)])
def test_outputs_without_a_row_for_each_sample_cannot_be_told_apart(shape: tuple[int, ...]) -> None:
    with pytest.raises(InferenceError, match="'bad'"):
        split({"good": np.zeros((5, 2)), "bad": np.zeros(shape)}, [2, 3])


def test_only_models_whose_every_first_dimension_is_free_are_joined() -> None:
    free, fixed = TensorSpec("x", "FP32", (-1, 4)), TensorSpec("y", "FP32", (1, 4))
    assert joinable([free], [free]) and not joinable([free], [fixed]) and not joinable([fixed], [free])
    assert not joinable([], [free]) and not joinable([free, TensorSpec("z", "FP32", ())], [free])
