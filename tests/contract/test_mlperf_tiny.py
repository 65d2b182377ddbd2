"""The MLPerf Tiny reference models answer bit for bit as LiteRT called directly."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.devices.cpu import CpuDevice
from agent.hal import ModelFile
from agent.types import TensorSpec

ROOT = Path(__file__).resolve().parents[2]
MODELS = Path(os.environ.get("OVERLAID_MLPERF_TINY") or ROOT.parent / "shared/data/mlperf-tiny")
NAMES = [
    "ad01_fp32", "ad01_int8", "kws_ref_model", "kws_ref_model_float32",
    "pretrainedResnet", "pretrainedResnet_quant", "vww_96_float", "vww_96_int8",
]  # fmt: skip
TYPES = {"float32": "FP32", "int8": "INT8"}

pytestmark = pytest.mark.skipif(
    not MODELS.is_dir(), reason=f"no MLPerf Tiny models in {MODELS}; set OVERLAID_MLPERF_TINY"
)


def spec(detail: dict[str, Any]) -> TensorSpec:
    shape = tuple(int(size) for size in detail["shape_signature"])
    return TensorSpec(detail["name"], TYPES[np.dtype(detail["dtype"]).name], shape)


def sample(detail: dict[str, Any], batch: int) -> np.ndarray[Any, Any]:
    random = np.random.default_rng(7)
    shape = (batch, *detail["shape"][1:])
    if detail["dtype"] == np.int8:
        return random.integers(-128, 128, shape, np.int8)
    return random.standard_normal(shape, np.float32)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_bit_for_bit_as_litert(name: str, batch: int) -> None:
    from ai_edge_litert.interpreter import Interpreter

    path = MODELS / f"{name}.tflite"
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
