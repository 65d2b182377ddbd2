"""Calibration and evaluation data that fit the model, and what is said of those that do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.errors import DatasetError
from agent.fleet.prepare.dataset import load_dataset, random_dataset
from agent.fleet.prepare.values import Steps
from agent.types import TensorSpec

PICTURE = TensorSpec("image", "FP32", (-1, 3, 4, 5))


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path / "data.npz", **arrays)
    return path / "data.npz"


def test_the_array_of_the_only_input_may_have_any_name(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((7, 3, 4, 5))
    data = load_dataset(saved(tmp_path, pictures=x, labels=np.arange(7)), [PICTURE], {})
    assert data.inputs["image"].shape == (7, 1, 3, 4, 5)
    assert data.inputs["image"].dtype == np.float32
    assert data.labels is not None
    assert data.labels.tolist() == list(range(7))
    assert data.head(2).count == 2


def test_several_inputs_are_found_by_name(tmp_path: Path) -> None:
    specs = [TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "INT64", (-1, 1))]
    path = saved(tmp_path, a=np.zeros((3, 2), np.float32), b=np.zeros((3, 1, 1), np.int64))
    assert {name: array.shape for name, array in load_dataset(path, specs, {}).inputs.items()} == {
        "a": (3, 1, 2),
        "b": (3, 1, 1),
    }
    with pytest.raises(DatasetError, match=r"no array 'c', it has \['a', 'b'\]"):
        load_dataset(path, [*specs, TensorSpec("c", "FP32", (-1, 2))], {})


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((7, 4, 5, 3), r"transpose\(0, 3, 1, 2\)"),
        ((7, 3, 4), "reshape"),
        ((3, 4, 5), "reshape"),
    ],
)
def test_a_wrong_shape_is_said_with_the_right_one(tmp_path: Path, shape: tuple[int, ...], hint: str) -> None:
    with pytest.raises(DatasetError, match=rf"\[n, 3, 4, 5\].*{hint}"):
        load_dataset(saved(tmp_path, x=np.zeros(shape, np.float32)), [PICTURE], {})


def test_channels_that_come_first_where_they_should_come_last(tmp_path: Path) -> None:
    spec = TensorSpec("image", "FP32", (-1, 4, 5, 3))
    with pytest.raises(DatasetError, match=r"transpose\(0, 2, 3, 1\)"):
        load_dataset(saved(tmp_path, x=np.zeros((7, 3, 4, 5), np.float32)), [spec], {})


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.zeros((2, 3, 4, 5), np.uint8)}, "takes FP32, the file holds uint8"),
        ({"x": np.full((2, 3, 4, 5), np.nan, np.float32)}, "NaN"),
        ({"x": np.full((2, 3, 4, 5), 1e60)}, "beyond FP32"),
        ({"x": np.zeros((0, 3, 4, 5), np.float32)}, "no samples"),
        (
            {"image": np.zeros((2, 3, 4, 5), np.float32), "label": np.zeros(2, np.int64)},
            "'label' is no input",
        ),
        ({"x": np.zeros((2, 3, 4, 5), np.float32), "labels": np.zeros(3, np.int64)}, "different numbers"),
        (
            {"x": np.zeros((2, 3, 4, 5), np.float32), "labels": np.zeros((2, 2))},
            "one integer for each sample",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        load_dataset(saved(tmp_path, **arrays), [PICTURE], {})


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 but no archive", b"\x93NUMPY"])
def test_what_is_no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(DatasetError, match=r"numpy\.savez"):
        load_dataset(tmp_path / "data.npz", [PICTURE], {})


def test_an_encrypted_archive_is_none(tmp_path: Path) -> None:
    path = saved(tmp_path, x=np.zeros((2, 3, 4, 5), np.float32))
    data = bytearray(path.read_bytes())
    data[6] |= 1  # the flag in the entry's own header
    data[data.rindex(b"PK\x01\x02") + 8] |= 1  # and in the directory
    path.write_bytes(data)
    with pytest.raises(DatasetError, match="encrypted"):
        load_dataset(path, [PICTURE], {})


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    path = saved(tmp_path, x=np.array([{"a": 1}], object))
    with pytest.raises(DatasetError, match="no archive of arrays"):
        load_dataset(path, [PICTURE], {})


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="No such file"):
        load_dataset(tmp_path / "lost.npz", [PICTURE], {})


def test_real_numbers_for_a_quantised_input_are_quantised(tmp_path: Path) -> None:
    spec = TensorSpec("q", "INT8", (-1, 2))
    path = saved(tmp_path, q=np.array([[0.0, 0.5], [9.0, -9.0]], np.float32))
    data = load_dataset(path, [spec], {"q": Steps(0.5, 3)})
    assert data.inputs["q"].tolist() == [[[3, 4]], [[21, -15]]]
    with pytest.raises(DatasetError, match="takes INT8"):
        load_dataset(path, [spec], {})


def test_random_numbers_fill_the_types() -> None:
    specs = [TensorSpec("f", "FP32", (-1, 9)), TensorSpec("i", "INT8", (9,)), TensorSpec("b", "BOOL", (9,))]
    data = random_dataset(specs, 64)
    assert (data.inputs["i"].min(), data.inputs["i"].max()) == (-128, 127)
    assert 0 <= data.inputs["f"].min() < data.inputs["f"].max() <= 1
    assert set(data.inputs["b"].reshape(-1).tolist()) == {False, True}
    assert np.array_equal(random_dataset(specs, 64).inputs["i"], data.inputs["i"])
    with pytest.raises(DatasetError, match="strings"):
        random_dataset([TensorSpec("s", "BYTES", (1,))], 1)
