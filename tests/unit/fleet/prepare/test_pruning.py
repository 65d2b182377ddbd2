"""Pruning: what it costs, and when a pruned variant goes into the folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import helper

from agent.fleet.prepare.channels import Net
from agent.fleet.prepare.dataset import load_dataset
from agent.fleet.prepare.prepare import load, prepare
from agent.fleet.prepare.pruning import Pruner, faster, marked
from agent.fleet.prepare.report import front
from agent.fleet.prepare.values import (
    Cost,
    CurvePoint,
    Dataset,
    Made,
    Prepared,
    Quality,
    Request,
    Source,
    no_progress,
)
from tests.unit.fleet.prepare.nets import convolutional, model, pictures, save, save_data

QUALITY = Quality(10, 0.0, 1.0, None)


def source_of(path: Path, net: Net) -> Source:
    (path / "net.onnx").write_bytes(net.bytes())
    return load(path / "net.onnx")


def halves_dead() -> Net:
    """Half of the second layer's channels never give anything."""
    net = Net(convolutional().SerializeToString())
    net.constants["w1"][8:], net.constants["b1"][8:] = 0, 0
    return net


def test_channels_that_give_nothing_go_and_the_answers_stay(tmp_path: Path) -> None:
    source = source_of(tmp_path, halves_dead())
    pruner = Pruner(source, Dataset({"x": pictures(40)[:, None]}, None, "numbers"), no_progress)
    curve = pruner.curve()
    assert (curve[0][0].way, curve[0][0].share) == ("none", 0.0)
    half = next(point for point, _ in curve if (point.way, point.share) == ("channels", 0.5))
    assert half.quality.error is not None
    assert half.quality.error < 1e-5
    found = pruner.best(curve)
    assert found is not None
    point, smaller = found
    assert point.way == "channels"
    assert Net(smaller.model).constants["w1"].shape == (8, 8, 3, 3)
    assert len(smaller.model) < len(source.model)


def test_a_model_without_weights_has_no_curve(tmp_path: Path) -> None:
    proto = model([helper.make_node("Sigmoid", ["x"], ["y"])], {}, output=("N", 2, 6, 6))
    source = load(save(tmp_path / "s.onnx", proto))
    pruner = Pruner(source, load_dataset(save_data(tmp_path / "c.npz"), source.inputs, {}), no_progress)
    assert pruner.curve() == []
    assert pruner.best([]) is None


def test_magnitude_makes_zeros_of_the_smallest(tmp_path: Path) -> None:
    source = source_of(tmp_path, Net(convolutional().SerializeToString()))
    pruner = Pruner(source, Dataset({"x": pictures(40)[:, None]}, None, "numbers"), no_progress)
    curve = {(point.way, point.share): (point, model) for point, model in pruner.curve()}
    whole, three_quarters = curve["none", 0.0], curve["magnitude", 0.75]
    assert three_quarters[0].parameters < 0.3 * whole[0].parameters
    left = Net(three_quarters[1]).constants["w1"]
    assert np.abs(left[left != 0]).min() >= np.quantile(np.abs(Net(whole[1]).constants["w1"]), 0.74)
    errors = [curve["magnitude", share][0].quality.error or 0.0 for share in (0.25, 0.5, 0.75)]
    assert errors == sorted(errors)
    assert errors[0] > 0


def made(name: str) -> Made:
    return Made(name, "onnx", "int8", ("cpu",), f"m-{name}.onnx", b"", {}, 0.0, 0.0, QUALITY)


def cost(variant: str, ms: float, mj: float | None = 1.0, board: str = "local") -> Cost:
    return Cost(variant, board, "cpu", "cpu", "onnxruntime", False, 9, ms, ms, mj, "measured", None)


def test_only_what_was_measured_to_be_faster_goes_in() -> None:
    point = CurvePoint("channels", 0.25, 1, QUALITY, 1.0)
    pruned = [marked(made("int8"), point), marked(made("fp32"), point), marked(made("npu"), point)]
    assert pruned[0].file == "m-int8-pruned.onnx"
    costs = [
        *(cost("int8", 1.0), cost("int8-pruned", 0.9)),
        *(cost("fp32", 1.0), cost("fp32-pruned", 0.97), cost("fp32-pruned", 0.1, board="elsewhere")),
        cost("npu-pruned", 0.1),
    ]
    kept, notes = faster(pruned, costs)
    assert [each.name for each in kept] == ["int8-pruned"]
    assert "10% faster on cpu of local" in notes[0]
    assert all("left out" in note for note in notes[1:])


def test_the_front_is_what_nothing_on_the_board_beats(tmp_path: Path) -> None:
    source = source_of(tmp_path, halves_dead())
    variants = {
        "good": Quality(9, 0.0, None, 0.9),
        "thrifty": Quality(9, 0.5, None, 0.8),
        "beaten": Quality(9, 0.1, None, 0.8),
        "unknown": Quality(9, 0.0, None, 1.0),
    }
    prepared = Prepared(
        Request(tmp_path, tmp_path, ("cpu",)), source, "", "",
        tuple(replace(made(name), quality=quality) for name, quality in variants.items()),
        costs=(
            cost("good", 1, 3), cost("thrifty", 1, 1), cost("beaten", 1, 2), cost("unknown", 1, None),
            cost("beaten", 1, 2, "other"), cost("left out", 1, 0),
        ),
    )  # fmt: skip
    assert front(prepared) == [
        ("good", "local", "cpu"),
        ("thrifty", "local", "cpu"),
        ("beaten", "other", "cpu"),
    ]


def test_variants_are_measured_on_boards_and_pruned_ones_compared(tmp_path: Path) -> None:
    """A simulated board's times follow the work, so fewer channels are faster there."""
    request = Request(
        save(tmp_path / "net.onnx", convolutional(7)), tmp_path / "out", ("npu",), save_data(tmp_path / "data.npz"),
        boards=("sim:pynq-z2",),
    )  # fmt: skip
    prepared = prepare(request)
    found = {each.variant: each for each in prepared.costs}
    assert {each.device for each in prepared.costs} == {"fpga"}
    assert found["npu"].simulated
    assert found["npu"].p99_ms >= found["npu"].p50_ms > 0.25
    assert found["npu"].energy in ("simulated", "missing")
    assert [point.way for point in prepared.curve][:2] == ["none", "magnitude"]
    assert len(prepared.curve) >= 5
    in_folder = {each.name for each in prepared.made}
    assert in_folder <= {"npu", "npu-pruned"}
    assert all("pruned" in note for note in prepared.notes[1:])


def test_what_no_board_runs_is_said(tmp_path: Path) -> None:
    request = Request(
        save(tmp_path / "net.onnx", convolutional()), tmp_path / "out", ("gpu",),
        evaluate=save_data(tmp_path / "data.npz"), boards=("sim:pynq-z2",),
    )  # fmt: skip
    prepared = prepare(request)
    assert prepared.costs == ()
    assert prepared.notes == (
        "nothing was measured on a gpu: none of these boards has one that runs a variant",
    )
