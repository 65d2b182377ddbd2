"""ONNX files: what is refused, in whose words, and what is done to those that are taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from agent.errors import (
    CustomDomain,
    DynamicShape,
    ModelLoadError,
    ModelTooLarge,
    OverlaidError,
    UnsupportedOperator,
    UnsupportedOpset,
    WeightsNotFinite,
)
from agent.fleet.prepare.prepare import load
from agent.fleet.prepare.simplify import refused
from agent.fleet.prepare.values import Source
from tests.unit.fleet.prepare.nets import convolutional, model, pictures, runtime, save

ONE = {"w": np.ones((3, 2), np.float32)}


def loaded(path: Path, proto: ModelProto) -> Source:
    return load(save(path / "net.onnx", proto))


def refusal(path: Path, proto: ModelProto, kind: type[OverlaidError]) -> str:
    with pytest.raises(kind) as caught:
        loaded(path, proto)
    return str(caught.value)


def operators(source: Source) -> list[str]:
    return [node.op_type for node in onnx.load_model_from_string(source.model).graph.node]


def test_an_operator_of_another_domain_is_named(tmp_path: Path) -> None:
    node = helper.make_node("Spike", ["x"], ["y"], name="spiking", domain="com.acme")
    text = refusal(tmp_path, model([node], {}, domains=["com.acme"]), CustomDomain)
    assert "Spike 'spiking'" in text
    assert "com.acme" in text


def test_an_operator_that_onnx_does_not_have_is_named(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Frobnicate", ["a"], ["y"], name="odd")]
    assert "Frobnicate 'odd'" in refusal(tmp_path, model(nodes, {}), UnsupportedOperator)


def test_an_operator_without_a_kernel_is_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.DOUBLE),
        helper.make_node("Tan", ["i"], ["s"], name="tangent"),
        helper.make_node("Cast", ["s"], ["y"], to=TensorProto.FLOAT),
    ]
    text = refusal(tmp_path, model(nodes, {}, output=("N", 2, 6, 6)), UnsupportedOperator)
    assert "target cpu" in text
    assert "tangent" in text


@pytest.mark.parametrize(("opset", "words"), [(5, "opset 17"), (99, "update onnx, or")])
def test_an_opset_that_nothing_here_takes(tmp_path: Path, opset: int, words: str) -> None:
    assert words in refusal(tmp_path, convolutional(opset=opset), UnsupportedOpset)


def test_an_opset_that_onnx_takes_and_its_runtime_does_not() -> None:
    said = refused(RuntimeError("FAIL : ValidateOpsetForDomain ONNX Runtime only *guarantees* support ..."))
    assert isinstance(said, UnsupportedOpset)
    assert "update onnxruntime, or" in str(said)


def test_an_old_opset_is_converted_so_that_channels_can_have_scales(tmp_path: Path) -> None:
    source = loaded(tmp_path, convolutional(opset=11))
    assert "converted from opset 11 to 17" in source.notes
    x = pictures(3)
    before = runtime(convolutional(opset=11).SerializeToString(), x)
    np.testing.assert_allclose(runtime(source.model, x), before, atol=1e-5)


def test_an_input_with_an_open_size_is_named(tmp_path: Path) -> None:
    proto = model(
        [helper.make_node("Relu", ["x"], ["y"])], {}, shape=["N", 2, "H", 6], output=["N", 2, "H", 6]
    )
    text = refusal(tmp_path, proto, DynamicShape)
    assert "'x'" in text
    assert "'H'" in text


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_named_with_their_readers(tmp_path: Path, value: float) -> None:
    weights = {"w": np.ones((3, 2), np.float32)}
    weights["w"][1, 1] = value
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], name="head", transB=1)]
    text = refusal(tmp_path, model(nodes, weights, shape=["N", 2]), WeightsNotFinite)
    assert "'w'" in text
    assert "Gemm 'head'" in text


def test_an_infinite_bound_is_no_weight(tmp_path: Path) -> None:
    weights = {"low": np.array(0, np.float32), "high": np.array(np.inf, np.float32)}
    proto = model([helper.make_node("Clip", ["x", "low", "high"], ["y"])], weights, shape=["N", 3])
    assert loaded(tmp_path, proto).inputs[0].shape == (-1, 3)


def outside(proto: ModelProto, name: str, length: int | None) -> ModelProto:
    """The model with the weights ``name`` in weights.bin, so it says."""
    tensor = next(each for each in proto.graph.initializer if each.name == name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": "weights.bin", "offset": "0"} | ({} if length is None else {"length": str(length)})
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return proto


@pytest.mark.parametrize("said", [True, False])
def test_two_gigabytes_of_external_data_are_refused_unread(tmp_path: Path, said: bool) -> None:
    proto = model([helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)], ONE, shape=["N", 2])
    length = 2 << 30 if said else None
    outside(proto, "w", length).graph.initializer[0].dims[:] = [1 << 15, 1 << 14]
    text = refusal(tmp_path, proto, ModelTooLarge)
    assert str(2 << 30)[:4] in text
    assert "INT8" in text


def test_external_data_come_into_the_file(tmp_path: Path) -> None:
    proto = convolutional()
    x, want = pictures(3), runtime(proto.SerializeToString(), pictures(3))
    onnx.save(
        proto, tmp_path / "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    source = load(tmp_path / "net.onnx")
    assert source.original_size > (tmp_path / "net.onnx").stat().st_size
    np.testing.assert_allclose(runtime(source.model, x), want, atol=1e-6)


def test_external_data_that_are_lost_are_named(tmp_path: Path) -> None:
    text = refusal(tmp_path, outside(convolutional(), "w0", 576), ModelLoadError)
    assert "weights.bin" in text


def test_external_data_elsewhere_are_not_read(tmp_path: Path) -> None:
    proto = outside(convolutional(), "w0", 8)
    proto.graph.initializer[0].external_data[0].value = "../../../etc/passwd"
    assert "one folder" in refusal(tmp_path, proto, ModelLoadError)


def test_answers_that_no_input_changes_are_named(tmp_path: Path) -> None:
    weights = {"w": np.ones((2, 3), np.float32)}
    proto = model([helper.make_node("MatMul", ["x", "w"], ["y"])], weights, shape=("N", 2))
    proto.graph.output.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, (2, 3)))
    assert "output 'w' is a constant" in refusal(tmp_path, proto, ModelLoadError)
    proto.graph.output[1].CopyFrom(proto.graph.input[0])
    assert "output 'x' is an input" in refusal(tmp_path, proto, ModelLoadError)
    proto = model([helper.make_node("Identity", ["w"], ["y"])], weights, output=(2, 3))
    del proto.graph.input[:]
    assert "no inputs" in refusal(tmp_path, proto, ModelLoadError)


def test_batch_normalisation_and_constants_are_folded(tmp_path: Path) -> None:
    proto = convolutional(normalised=True)
    source = loaded(tmp_path, proto)
    assert operators(source) == ["Conv", "Relu", "Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]
    assert "simplified from 8 to 7 operators" in source.notes
    x = pictures(5)
    np.testing.assert_allclose(runtime(source.model, x), runtime(proto.SerializeToString(), x), atol=1e-5)


def test_every_operator_has_a_name_of_its_own(tmp_path: Path) -> None:
    proto = convolutional()
    for node in proto.graph.node:
        node.name = "same" if node.op_type == "Conv" else ""
    names = [node.name for node in onnx.load_model_from_string(loaded(tmp_path, proto).model).graph.node]
    assert "" not in names
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("data", [b"", b"\x00" * 64, b"no model at all", b"\x08\x08"])
def test_what_is_no_model_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "net.onnx").write_bytes(data)
    with pytest.raises(ModelLoadError, match=r"export"):
        load(tmp_path / "net.onnx")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="No such file"):
        load(tmp_path / "net.onnx")
