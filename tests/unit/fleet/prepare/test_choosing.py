"""Which ranges and which layers in float are chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import ModelProto, helper

from agent.fleet.prepare.choosing import Chooser
from agent.fleet.prepare.prepare import load, prepare
from agent.fleet.prepare.quality import good_enough, judge, rank
from agent.fleet.prepare.values import Dataset, Quality, Request, no_progress
from tests.unit.fleet.prepare.nets import convolutional, model, pictures, save, save_data


def chooser(path: Path, proto: ModelProto) -> Chooser:
    source = load(save(path / "net.onnx", proto))
    x = pictures(64)
    return Chooser(source, Dataset({"x": x[:, None]}, None, "numbers"), no_progress)


def wide() -> ModelProto:
    """Activations from 1e-3 to 1e3 in one tensor: its layer alone loses everything in 256 steps."""
    rng = np.random.default_rng(3)
    scales = np.array([1e3, *[1.0] * 7], np.float32).reshape(8, 1, 1, 1)
    weights = {
        "w0": (rng.random((8, 2, 1, 1)) * scales).astype(np.float32),
        "w1": (rng.standard_normal((8, 8, 1, 1)) / scales.reshape(1, 8, 1, 1)).astype(np.float32),
        "w2": rng.standard_normal((3, 8)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], name="spreads"),
        helper.make_node("Conv", ["a", "w1"], ["b"], name="gathers"),
        helper.make_node("GlobalAveragePool", ["b"], ["p"], name="mean"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "w2"], ["y"], name="head", transB=1),
    ]
    return model(nodes, weights)


def test_all_methods_are_tried_and_the_best_is_kept(tmp_path: Path) -> None:
    recipe = chooser(tmp_path, convolutional()).recipe("cpu")
    assert [trial.method for trial in recipe.trials] == ["minmax", "percentile", "entropy"]
    best = min(recipe.trials, key=lambda trial: rank(trial.quality))
    assert (recipe.method, recipe.float_layers) == (best.method, ())


def test_sensitivity_names_every_layer_worst_first(tmp_path: Path) -> None:
    recipe = chooser(tmp_path, convolutional()).recipe("npu")
    assert {each.layer for each in recipe.sensitivity} == {"first", "second", "mean", "head"}
    errors = [each.error for each in recipe.sensitivity]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0


def test_layers_that_lose_most_stay_in_float(tmp_path: Path) -> None:
    recipe = chooser(tmp_path, wide()).recipe("cpu")
    assert recipe.sensitivity[0].layer in ("spreads", "gathers")
    assert recipe.float_layers
    assert set(recipe.float_layers) <= {"spreads", "gathers", "mean", "head"}
    worst = next(trial for trial in recipe.trials if trial.method == recipe.method and not trial.float_layers)
    best = next(trial for trial in recipe.trials if trial.float_layers == recipe.float_layers)
    assert rank(best.quality) < rank(worst.quality)


def quality(accuracy: float | None, agreement: float | None, error: float) -> Quality:
    return Quality(100, error, agreement, accuracy)


def test_labels_come_before_agreement_and_that_before_error() -> None:
    baseline = quality(0.9, 1.0, 0.0)
    assert good_enough(quality(0.895, 0.5, 0.9), baseline)
    assert not good_enough(quality(0.89, 1.0, 0.0), baseline)
    assert good_enough(quality(None, 0.95, 0.9), quality(None, 1.0, 0.0))
    assert not good_enough(quality(None, 0.94, 0.0), quality(None, 1.0, 0.0))
    assert good_enough(quality(None, None, 0.1), quality(None, None, 0.0))
    assert not good_enough(quality(None, None, 0.11), quality(None, None, 0.0))


def test_what_an_autoencoder_gives_are_no_classes(tmp_path: Path) -> None:
    weights = {"w": np.eye(8, dtype=np.float32)}
    proto = model([helper.make_node("MatMul", ["x", "w"], ["y"])], weights, shape=("N", 8), output=("N", 8))
    source = load(save(tmp_path / "net.onnx", proto))
    answers = {"y": np.random.default_rng(0).random((5, 1, 8))}
    found = judge(answers, answers, None, source)
    assert (found.agreement, found.error) == (None, 0.0)


def test_agreement_and_error_of_answers(tmp_path: Path) -> None:
    source = load(save(tmp_path / "net.onnx", convolutional()))
    want = {"y": np.array([[[3.0, 0, 0]], [[0, 4, 0]], [[0, 0, 5]], [[1, 0, 0]]])}
    got = {"y": np.array([[[3.0, 0, 0]], [[0, 4, 0]], [[0, 0, 5]], [[0, 1, 0]]])}
    found = judge(got, want, np.array([0, 1, 0, 1]), source)
    assert (found.agreement, found.accuracy, found.samples) == (0.75, 0.75, 4)
    assert found.error is not None
    assert abs(found.error - (2 / 51) ** 0.5) < 1e-12


def test_an_overlay_is_given_the_program_without_layers_in_float_as_well(tmp_path: Path) -> None:
    request = Request(
        save(tmp_path / "net.onnx", wide()), tmp_path / "out", ("npu",), save_data(tmp_path / "data.npz")
    )
    whole, mixed = prepare(request).made
    assert (whole.name, mixed.name) == ("npu", "npu-mixed")
    assert whole.recipe is not None
    assert mixed.recipe is not None
    assert whole.recipe.float_layers == ()
    assert mixed.recipe.float_layers
    assert rank(mixed.quality) < rank(whole.quality)
    assert [place.where for place in whole.places] != [place.where for place in mixed.places]
    assert any(place.where == "cpu" for place in mixed.places)
