"""What a worker says of its model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.hal import ModelFile
from agent.serving.spec import Golden, WorkerSpec
from agent.serving.worker import description
from agent.types import Candidate, TensorSpec

FREE = TensorSpec("x", "FP32", (-1, 3, 2)), TensorSpec("y", "INT64", (-1,))
FIXED = TensorSpec("x", "UINT8", (1, 4)), TensorSpec("y", "BYTES", (1, 2))


def spec(**changes: Any) -> WorkerSpec:
    return replace(
        WorkerSpec(
            "m", "1.2", "d" * 64, "local", Path("/b"), Candidate("int8", "onnxruntime", "cpu"),
            ModelFile(Path("/m"), "onnx", (), ()), Golden(1, {}, {}, 0.0, 0.0), 2400,
        ),
        **changes,
    )  # fmt: skip


def config(tensors: tuple[TensorSpec, TensorSpec], **changes: Any) -> dict[str, Any]:
    return description.config(spec(**changes), [tensors[0]], [tensors[1]])


def test_metadata_is_the_protocols() -> None:
    assert description.metadata(spec(), [FREE[0]], [FREE[1]]) == {
        "name": "m",
        "versions": ["1.2"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3, 2]}],
        "outputs": [{"name": "y", "datatype": "INT64", "shape": [-1]}],
    }


def test_a_free_first_dimension_is_tritons_batch_and_not_among_its_dims() -> None:
    answer = config(FREE)
    assert answer["max_batch_size"] == 100  # of 24 bytes each in a body of 2400
    assert answer["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [3, 2]}]
    assert answer["output"] == [{"name": "y", "data_type": "TYPE_INT64", "dims": []}]
    assert "dynamic_batching" not in answer
    assert config(FREE, max_batch=8)["dynamic_batching"]["preferred_batch_size"] == [8]


def test_without_one_there_is_no_batch() -> None:
    answer = config(FIXED)
    assert answer["max_batch_size"] == 0
    assert answer["input"] == [{"name": "x", "data_type": "TYPE_UINT8", "dims": [1, 4]}]
    assert answer["output"] == [{"name": "y", "data_type": "TYPE_STRING", "dims": [1, 2]}]


def test_instances_and_what_runs_are_named() -> None:
    answer = config(FREE, instances=3)
    assert answer["instance_group"] == [{"name": "cpu", "kind": "KIND_CPU", "count": 3}]
    assert (answer["name"], answer["platform"], answer["backend"]) == ("m", "onnxruntime_onnx", "onnxruntime")
    assert answer["version_policy"] == {"latest": {"num_versions": 1}}
    assert answer["parameters"]["variant"] == {"string_value": "int8"}
    for device, kind in (("gpu0", "KIND_GPU"), ("fpga0", "KIND_MODEL")):
        answer = config(FREE, candidate=Candidate("int8", "onnxruntime", device))
        assert answer["instance_group"][0]["kind"] == kind
