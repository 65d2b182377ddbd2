"""The MLPerf Tiny reference models answer bit for bit as LiteRT called directly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agent.devices.cpu import CpuDevice
from agent.hal import ModelFile
from agent.types import TensorSpec
from tests.system.mlperf import DTYPES, FOLDER, MODELS, reason_to_skip

pytestmark = pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))


def spec(detail: dict[str, Any]) -> TensorSpec:
    shape = tuple(int(size) for size in detail["shape_signature"])
    return TensorSpec(detail["name"], DTYPES[np.dtype(detail["dtype"]).name], shape)


def sample(detail: dict[str, Any], batch: int) -> np.ndarray[Any, Any]:
    random = np.random.default_rng(7)
    shape = (batch, *detail["shape"][1:])
    if detail["dtype"] == np.int8:
        return random.integers(-128, 128, shape, np.int8)
    return random.standard_normal(shape, np.float32)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("file", MODELS.values())
def test_bit_for_bit_as_litert(file: str, batch: int) -> None:
    from ai_edge_litert.interpreter import Interpreter

    path = FOLDER / file
    direct = Interpreter(str(path), num_threads=1)
    (into,), (out,) = direct.get_input_details(), direct.get_output_details()
    direct.resize_tensor_input(into["index"], [batch, *into["shape"][1:]])
    direct.allocate_tensors()
    sent = sample(into, batch)
    direct.set_tensor(into["index"], sent)
    direct.invoke()
    want = direct.get_tensor(out["index"])

    session = CpuDevice().open(ModelFile(path, "tflite", (spec(into),), (spec(out),)), "litert")
    got = session.run({into["name"]: sent}).outputs[out["name"]]
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    assert got.tobytes() == want.tobytes()
    assert got.shape[0] == batch
    assert np.unique(got).size > 1  # an answer, not a constant
