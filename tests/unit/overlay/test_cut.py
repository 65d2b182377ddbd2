"""Parts of a model compute what the whole model computes there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from agent.errors import ModelLoadError
from agent.overlay.graph import Foreign
from agent.overlay.importers.building import join_foreign
from agent.overlay.importers.cut import cut
from agent.types import TensorSpec
from tests.unit.overlay import onnx_nets, tflite_nets

MODELS = Path(__file__).resolve().parents[3] / "models"
ONNX = (MODELS / "digits" / "digits-int8.onnx").read_bytes()
TFLITE = (MODELS / "camera-digits" / "camera-digits-int8.tflite").read_bytes()
BORDER = "sum_relu_QuantizeLinear_Output"


def part(inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Foreign:
    return Foreign(inputs, outputs, (), "")


def test_two_parts_of_an_onnx_model_in_a_row_are_the_model() -> None:
    image = np.random.default_rng(1).random((1, 1, 8, 8), np.float32)
    first = cut(ONNX, "onnx", part(("image",), (BORDER,)))
    second = cut(ONNX, "onnx", part((BORDER,), ("logits",)))
    onnx.checker.check_model(onnx.load_model_from_string(second), full_check=True)
    between = onnx_nets.runtime(first, {"image": image})
    assert between[BORDER].dtype == np.uint8
    got = onnx_nets.runtime(second, between)["logits"]
    np.testing.assert_array_equal(got, onnx_nets.runtime(ONNX, {"image": image})["logits"])


def test_a_part_holds_only_its_own_weights() -> None:
    proto = onnx.load_model_from_string(cut(ONNX, "onnx", part((BORDER,), ("logits",))))
    names = {each.name for each in proto.graph.initializer}
    assert "head.weight_quantized" in names
    assert "stem.weight_quantized" not in names
    assert [size.dim_value for size in proto.graph.input[0].type.tensor_type.shape.dim] == [1, 32, 8, 8]


def test_two_parts_of_a_tflite_model_in_a_row_are_the_model() -> None:
    image = np.random.default_rng(1).random((1, 1, 64, 64), np.float32)
    first = cut(TFLITE, "tflite", part(("image",), ("stage2.sum_int8",)))
    second = cut(TFLITE, "tflite", part(("stage2.sum_int8",), ("logits",)))
    between = tflite_nets.runtime(tflite_nets.interpreter(first), {"image": image})
    assert between["stage2.sum_int8"].shape == (1, 32, 32, 32)
    got = tflite_nets.runtime(tflite_nets.interpreter(second), between)["logits"]
    whole = tflite_nets.runtime(tflite_nets.interpreter(TFLITE), {"image": image})["logits"]
    np.testing.assert_array_equal(got, whole)
    assert len(first) + len(second) < len(TFLITE) * 1.1  # each has its own weights alone


@pytest.mark.parametrize(("source", "form"), [(ONNX, "onnx"), (TFLITE, "tflite")])
@pytest.mark.parametrize("names", [(("image",), ("nothing",)), (("image",), ("image",))])
def test_tensors_that_no_operator_writes(source: bytes, form: str, names: Any) -> None:
    with pytest.raises(ModelLoadError):
        cut(source, form, part(*names))


def test_another_format() -> None:
    with pytest.raises(ModelLoadError, match="only onnx, tflite"):
        cut(b"", "pb", part((), ("x",)))


def test_many_operators_that_stay_on_the_cpu_keep_to_the_room_that_a_program_has_for_reasons() -> None:
    steps = [
        Foreign((f"t{index}",), (f"t{index + 1}",), (f"n{index}",), f"Conv 'n{index}': {'x' * 200}")
        for index in range(64)
    ]
    (joined,) = join_foreign(steps, [TensorSpec("t64", "FP32", (1,))])
    assert isinstance(joined, Foreign)
    assert len(joined.nodes) == 64
    assert joined.why.startswith("Conv 'n0': x")
    assert 3000 < len(joined.why) <= 4096
