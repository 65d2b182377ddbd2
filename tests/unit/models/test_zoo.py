"""The zoo is what its script says, and is built by it."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from agent.fleet.prepare.prepare import load
from agent.fleet.source import ModelFolder
from tests.system import mlperf

MODELS = Path(__file__).resolve().parents[3] / "models"
NAMES = {"ic": "resnet8", "kws": "dscnn", "vww": "vww", "ad": "autoencoder"}


def architectures() -> Any:
    spec = importlib.util.spec_from_file_location("architectures", MODELS / "architectures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ARCHITECTURES


def layers(model: onnx.ModelProto) -> list[tuple[str, int]]:
    """Operators that compute, with the numbers in their constants."""
    sizes = {each.name: math.prod(each.dims) for each in model.graph.initializer}
    return [
        (node.op_type, sum(sizes.get(name, 0) for name in node.input))
        for node in model.graph.node
        if node.op_type in ("Conv", "Gemm", "Add", "GlobalAveragePool", "Softmax")
    ]


@pytest.mark.skipif(mlperf.reason_to_skip() is not None, reason=str(mlperf.reason_to_skip()))
@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_architectures_are_those_of_mlperf_tiny(name: str) -> None:
    reference = load(mlperf.FOLDER / mlperf.MODELS[NAMES[name]])
    want = layers(onnx.load_model_from_string(reference.model))
    assert sorted(layers(architectures()[name]())) == sorted(want)


def test_the_same_weights_every_time() -> None:
    make = architectures()["kws"]
    assert make().SerializeToString() == make().SerializeToString()


def test_a_model_is_built_by_its_script(tmp_path: Path) -> None:
    command = [sys.executable, str(MODELS / "zoo.py"), "kws", "--out", str(tmp_path), "--boards", ""]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    toml = ModelFolder(tmp_path / "kws").toml
    assert "RANDOM weights" in toml.description
    assert {"fp32", "int8", "int8-qlinear", "npu"} <= {variant.name for variant in toml.variants}
