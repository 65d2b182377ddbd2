"""BYTES tensors (strings): their binary form, and the runtimes that take them or say that they do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from onnx import TensorProto, helper

from agent.devices import litert_cpu
from agent.devices.cpu import CpuDevice
from agent.devices.golden import compare, worst_difference
from agent.devices.program import open_functional
from agent.devices.tensors import pack_strings, unpack_strings
from agent.errors import ModelLoadError, TensorError
from agent.hal import ModelFile
from agent.overlay.compiler import compile_graph
from agent.overlay.programfile import write_program
from agent.overlay.selftest import self_test_graph
from agent.overlay.spec import load_spec
from agent.types import TensorSpec

TEXT = TensorSpec("text", "BYTES", (-1, 2))
COPY = TensorSpec("copy", "BYTES", (-1, 2))


def strings(*rows: list[bytes]) -> Any:
    return np.array(rows, np.object_)


@given(arrays(np.object_, array_shapes(min_dims=0, max_dims=3, max_side=4), elements=st.binary(max_size=300)))
def test_strings_come_back_as_they_were(array: Any) -> None:
    data = pack_strings(array)
    back = unpack_strings(data, array.shape)
    assert back.dtype == np.object_ and back.flags.c_contiguous
    np.testing.assert_array_equal(back, array)
    for wrong in (data + b"\0", data[:-1]):
        with pytest.raises(TensorError):
            unpack_strings(wrong, array.shape)


def test_the_binary_form_is_the_length_and_the_bytes() -> None:
    assert pack_strings(strings([b"ab", b""])) == b"\x02\0\0\0ab\0\0\0\0"


@given(st.binary(max_size=40), st.lists(st.integers(0, 3), max_size=3))
def test_any_bytes_are_strings_or_an_error(data: bytes, shape: list[int]) -> None:
    try:
        array = unpack_strings(data, shape)
    except TensorError:
        return
    assert pack_strings(array) == data and list(array.shape) == shape


def test_a_count_that_memory_could_not_hold_is_refused_at_once() -> None:
    with pytest.raises(TensorError, match="too few"):
        unpack_strings(b"\0" * 8, (1 << 31, 1 << 31))


@pytest.fixture
def copying(tmp_path: Path) -> ModelFile:
    """copy = text, in ONNX."""
    kinds = [helper.make_tensor_value_info(spec.name, TensorProto.STRING, ["n", 2]) for spec in (TEXT, COPY)]
    graph = helper.make_graph([helper.make_node("Identity", ["text"], ["copy"])], "g", kinds[:1], kinds[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path = tmp_path / "strings.onnx"
    path.write_bytes(model.SerializeToString())
    return ModelFile(path, "onnx", (TEXT,), (COPY,))


def test_onnx_runtime_takes_and_gives_text(copying: ModelFile) -> None:
    session = CpuDevice().open(copying, "onnxruntime")
    array = strings([b"a", "é\0ü\U0001f600".encode()], [b"", b"x" * 1000])
    got = session.run({"text": array}).outputs["copy"]
    assert got.dtype == np.object_ and got.tolist() == array.tolist()


@pytest.mark.parametrize("wrong", [b"\xff", "text", 1, None])
def test_what_is_no_utf8_is_refused_before_the_run(copying: ModelFile, wrong: Any) -> None:
    session = CpuDevice().open(copying, "onnxruntime")
    with pytest.raises(TensorError, match=r"'text'.*UTF-8"):
        session.run({"text": strings([b"a", wrong])})


def test_a_manifest_that_promises_numbers_does_not_fit_strings(copying: ModelFile) -> None:
    numbers = ModelFile(copying.path, "onnx", (TensorSpec("text", "FP32", (-1, 2)),), (COPY,))
    with pytest.raises(ModelLoadError, match=r"'text'.*FP32.*BYTES"):
        CpuDevice().open(numbers, "onnxruntime")


def test_litert_does_not_serve_strings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Interpreter:
        def __init__(self, **_: Any) -> None: ...

        def allocate_tensors(self) -> None: ...

        def get_input_details(self) -> list[dict[str, Any]]:
            return [{"name": "text", "dtype": np.bytes_, "shape": [1], "shape_signature": [1]}]

        get_output_details = get_input_details

    class Module:
        pass

    module = Module()
    module.Interpreter = Interpreter  # type: ignore[attr-defined]
    monkeypatch.setattr(litert_cpu, "runtime", lambda: module)
    with pytest.raises(ModelLoadError, match="'text' holds strings; they are served from ONNX models only"):
        litert_cpu.LiteRtSession(ModelFile(tmp_path / "m.tflite", "tflite", (TEXT,), (COPY,)))


def test_golden_strings_are_equal_or_not() -> None:
    want = {"copy": strings([b"a", b"b"]), "y": np.array([1.0], np.float32)}
    assert compare(want, want, 0, 0) is None and worst_difference(want, want) == 0
    other = {**want, "copy": strings([b"a", b"c"])}
    assert compare(other, want, 1, 1) == "output 'copy': 1 of 2 strings differ"
    shaped = {**want, "copy": strings([b"a"], [b"b"])}
    assert "shape" in str(compare(shaped, want, 1, 1))


def test_an_overlay_program_does_not_serve_strings(tmp_path: Path) -> None:
    program = compile_graph(self_test_graph(), load_spec("npu-small"))
    named = tuple(TensorSpec(spec.name, "BYTES", spec.shape) for spec in program.inputs)
    path = tmp_path / "strings.npu"
    path.write_bytes(write_program(replace(program, inputs=named)))
    with pytest.raises(ModelLoadError, match="hold strings; they are served from ONNX models only"):
        open_functional(ModelFile(path, "npu", named, program.outputs))
