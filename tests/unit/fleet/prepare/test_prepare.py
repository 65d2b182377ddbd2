"""From a model file to a model folder that pack takes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from agent.errors import (
    DatasetError,
    DynamicShape,
    OverlayLoadError,
    RuntimeUnavailable,
    StoreError,
    UnsupportedModel,
    UsageError,
)
from agent.fleet.pack import Packed, pack
from agent.fleet.prepare.prepare import prepare
from agent.fleet.prepare.values import Made, Prepared, Request
from tests.system import mlperf
from tests.unit.fleet.prepare.nets import convolutional, model, save, save_data

ROOT = Path(__file__).resolve().parents[4]
ALL = ("cpu", "gpu", "npu")


def packed(folder: Path) -> Packed:
    """The package of a folder, every variant checked on this machine."""
    return pack(folder, folder.with_name(f"{folder.name}.package"))


def asked(path: Path, **changes: Any) -> Request:
    """A small float model with its calibration data, for all targets."""
    request = Request(
        save(path / "Net v2.onnx", convolutional()), path / "out", ALL, save_data(path / "calibrate.npz")
    )
    return dataclasses.replace(request, **changes)


def by_name(prepared: Prepared) -> dict[str, Made]:
    return {made.name: made for made in prepared.made}


def test_a_float_model_becomes_a_folder_for_all_targets(tmp_path: Path) -> None:
    request = asked(tmp_path, evaluate=save_data(tmp_path / "eval.npz", 30, seed=2))
    prepared = prepare(request)
    devices = {name: made.devices for name, made in by_name(prepared).items()}
    assert devices == {
        "fp32": ("cpu", "gpu"),
        "int8": ("cpu", "gpu"),
        "int8-qlinear": ("cpu",),
        "npu": ("fpga", "gpu", "cpu"),
    }
    found = packed(request.out)
    assert found.manifest.name == "net-v2"
    assert set(found.agreements) == set(devices)
    assert max(each.worst_difference for each in found.agreements.values()) == 0
    assert prepared.evaluated == "eval.npz"
    assert prepared.notes == ()


def test_the_report_says_what_was_tried(tmp_path: Path) -> None:
    request = asked(tmp_path)
    prepare(request)
    report = json.loads((request.out / "report.json").read_text())
    assert [each["rules"] for each in report["quantisation"]] == ["cpu", "npu"]
    assert [len(each["trials"]) for each in report["quantisation"]] == [3, 3]
    assert len(report["quantisation"][0]["sensitivity"]) == 4
    assert "flatters" in report["notes"][0]
    sizes = {each["name"]: (each["bytes"], each["ratio"]) for each in report["variants"]}
    original = request.model.stat().st_size
    assert all(ratio == pytest.approx(original / size) for size, ratio in sizes.values())
    places = report["variants"][-1]["places"]
    assert [place["operators"] for place in places if place["where"] == "overlay"] == [
        ["first", "second", "mean", "head"]
    ]


@pytest.mark.parametrize(
    ("targets", "variants"),
    [(("gpu",), ["fp32"]), (("cpu",), ["fp32", "int8", "int8-qlinear"]), (("npu-small",), ["npu-small"])],
)
def test_only_what_the_targets_run_is_made(
    tmp_path: Path, targets: tuple[str, ...], variants: list[str]
) -> None:
    request = asked(tmp_path, targets=targets, evaluate=save_data(tmp_path / "eval.npz", 8))
    if targets == ("gpu",):
        request = dataclasses.replace(request, calibrate=None)
    assert list(by_name(prepare(request))) == variants
    assert packed(request.out)


def test_data_that_say_little_of_the_ranges_are_named(tmp_path: Path) -> None:
    thin = save_data(tmp_path / "thin.npz", x=np.full((3, 2, 6, 6), 0.5, np.float32))
    notes = prepare(asked(tmp_path, calibrate=thin, targets=("cpu",))).notes
    assert any("calibrated on 3 samples" in note for note in notes)
    assert any("'x' is 0.5 throughout" in note for note in notes)


def test_calibration_data_are_asked_for_when_something_must_be_quantised(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--calibrate data\.npz"):
        prepare(asked(tmp_path, calibrate=None))


def test_a_model_that_is_int8_already_needs_none_and_stays_as_it_is(tmp_path: Path) -> None:
    first = prepare(asked(tmp_path))
    (tmp_path / "int8.onnx").write_bytes(by_name(first)["int8"].data)
    request = asked(tmp_path, model=tmp_path / "int8.onnx", calibrate=None, out=tmp_path / "again")
    again = prepare(request)
    assert by_name(again)["int8"].data == by_name(first)["int8"].data
    assert set(by_name(again)) == {"int8", "npu"}
    assert by_name(again)["npu"].recipe is None
    assert "random numbers" in again.notes[0]
    assert packed(request.out)


def test_an_int8_model_is_compared_with_the_float_one(tmp_path: Path) -> None:
    first = prepare(asked(tmp_path))
    (tmp_path / "int8.onnx").write_bytes(by_name(first)["int8"].data)
    changes = {
        "model": tmp_path / "int8.onnx",
        "calibrate": None,
        "evaluate": save_data(tmp_path / "eval.npz", 20, seed=7),
        "reference": tmp_path / "Net v2.onnx",
        "out": tmp_path / "again",
    }
    again = prepare(asked(tmp_path, **changes))
    assert again.baseline == "the float model net-v2"
    error = by_name(again)["int8"].quality.error
    assert error is not None
    assert 0 < error < 0.05
    with pytest.raises(UsageError, match="float itself"):
        prepare(asked(tmp_path, reference=tmp_path / "Net v2.onnx", out=tmp_path / "third"))


def sizes_by_data(path: Path) -> Path:
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("NonZero", ["f"], ["n"], name="which"),
        helper.make_node("Cast", ["n"], ["c"], to=1),
        helper.make_node("ReduceSum", ["c"], ["y"], keepdims=1),
    ]
    return save(path / "open.onnx", model(nodes, {}, output=(1, 1)))


def test_a_size_that_only_a_run_tells_is_named_for_an_overlay(tmp_path: Path) -> None:
    with pytest.raises(DynamicShape, match=r"target npu: NonZero 'which'"):
        prepare(asked(tmp_path, model=sizes_by_data(tmp_path), targets=("npu",)))
    assert not (tmp_path / "out").exists()


def test_a_model_of_which_an_overlay_runs_nothing(tmp_path: Path) -> None:
    proto = model([helper.make_node("Sigmoid", ["x"], ["y"], name="curve")], {}, output=("N", 2, 6, 6))
    with pytest.raises(
        UnsupportedModel, match=r"target npu: .* none of Sigmoid 'curve'.*leave it out of --targets"
    ):
        prepare(asked(tmp_path, model=save(tmp_path / "s.onnx", proto), targets=("npu",)))


def test_data_of_the_wrong_shape(tmp_path: Path) -> None:
    wrong = save_data(tmp_path / "wrong.npz", x=np.zeros((9, 6, 6, 2), np.float32))
    with pytest.raises(DatasetError, match=r"\[n, 2, 6, 6\].*transpose"):
        prepare(asked(tmp_path, calibrate=wrong))


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"targets": ()}, UsageError, "--targets"),
        ({"targets": ("cpu", "cpu")}, UsageError, "once"),
        ({"targets": ("tpu",)}, OverlayLoadError, "there is no overlay 'tpu'.*cpu and gpu"),
        ({"out": Path("/proc/nowhere")}, StoreError, "nowhere"),
        ({"boards": ("sim:nowhere",)}, RuntimeUnavailable, "nowhere"),
        ({"name": "Bad Name"}, UsageError, "--name"),
        ({"version": "1 0"}, UsageError, "--version"),
        ({"licence": ""}, UsageError, "--licence"),
    ],
)
def test_wrong_requests_end_before_any_work(
    tmp_path: Path, changes: dict[str, Any], kind: type[Exception], words: str
) -> None:
    told: list[str] = []
    with pytest.raises(kind, match=words):
        prepare(asked(tmp_path, **changes), lambda text, _share: told.append(text))
    assert told == []


def test_what_is_there_is_never_written_over(tmp_path: Path) -> None:
    request = asked(tmp_path)
    request.out.mkdir()
    with pytest.raises(UsageError, match="exists"):
        prepare(request)
    assert list(request.out.iterdir()) == []


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize(
    "phase", ["reading", "calibrating", "sensitivity", "compiling", "measuring npu", "writing"]
)
def test_an_interruption_leaves_nothing(tmp_path: Path, phase: str) -> None:
    request = asked(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}

    def stop(text: str, _share: float) -> None:
        if text.startswith(phase):
            raise Interrupted

    with pytest.raises(Interrupted):
        prepare(request, stop)
    assert {path.name for path in tmp_path.iterdir()} == before


def test_an_interruption_while_writing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = asked(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    writes = []

    def write(self: Path, data: bytes) -> int:
        writes.append(self)
        if self.name.endswith("qlinear.onnx") and self.parent.name.startswith(".out"):
            raise KeyboardInterrupt
        with self.open("wb") as file:
            return file.write(data)

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(KeyboardInterrupt):
        prepare(request)
    assert {path.name for path in tmp_path.iterdir()} == before


def test_texts_that_toml_must_escape(tmp_path: Path) -> None:
    request = asked(tmp_path, targets=("gpu",), calibrate=None, description='a "b"\n\x7f 😀', licence="x\ty")
    prepare(request)
    manifest = packed(request.out).manifest
    assert (manifest.description, manifest.licence) == (request.description, request.licence)


@pytest.mark.parametrize(
    ("name", "model_file"), [("digits", "digits-fp32.onnx"), ("breast-cancer", "breast-cancer-fp32.onnx")]
)
def test_int8_keeps_the_accuracy_on_data_held_out(tmp_path: Path, name: str, model_file: str) -> None:
    folder = ROOT / "models" / name
    request = Request(
        folder / model_file, tmp_path / "out", ALL, folder / "calibrate.npz", folder / "test.npz", name=name
    )
    made = by_name(prepare(request))
    baseline = made["fp32"].quality.accuracy
    assert baseline is not None
    for variant in ("int8", "int8-qlinear", "npu"):
        accuracy = made[variant].quality.accuracy
        assert accuracy is not None
        assert accuracy >= baseline - 0.005
    for variant in ("int8", "int8-qlinear"):
        assert request.model.stat().st_size >= 3.5 * len(made[variant].data)
    assert packed(request.out)


@pytest.mark.skipif(mlperf.reason_to_skip() is not None, reason=str(mlperf.reason_to_skip()))
@pytest.mark.parametrize("name", ["resnet8", "dscnn", "vww", "autoencoder"])
def test_mlperf_tiny(tmp_path: Path, name: str) -> None:
    """Float and INT8 TFLite go in; what comes out runs on the CPU and as a program, compared with the float model."""
    source = mlperf.FOLDER / mlperf.MODELS[name]
    shape = mlperf.Reference(mlperf.MODELS[name]).input["shape"][1:]
    data = save_data(
        tmp_path / "data.npz", x=np.random.default_rng(0).random((24, *shape)).astype(np.float32)
    )
    prepared = prepare(Request(source, tmp_path / "float", ("cpu", "npu"), calibrate=data))
    assert {"fp32", "fp32-tflite", "int8", "int8-qlinear", "npu"} <= set(by_name(prepared))
    assert packed(tmp_path / "float")
    int8 = mlperf.FOLDER / mlperf.MODELS[f"{name}-int8"]
    again = prepare(Request(int8, tmp_path / "int8", ("cpu", "npu"), evaluate=data, reference=source))
    made = by_name(again)
    assert made["int8"].data == int8.read_bytes()
    assert set(made) == {"int8", "npu"}
    assert all(each.quality.error is not None for each in again.made)
    assert packed(tmp_path / "int8")
