"""Tiny models for the serving tests: y = factor * x, FP32 [any, 4], with golden vectors."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from agent.hal import ModelFile
from agent.serving.door.node import NodeState
from agent.serving.spec import Golden, WorkerSpec
from agent.types import Candidate, Snapshot, TensorSpec

INPUTS = (TensorSpec("x", "FP32", (-1, 4)),)
OUTPUTS = (TensorSpec("y", "FP32", (-1, 4)),)


def make_spec(
    root: Path, name: str, factor: float, version: str = "1.0", golden_factor: float | None = None
) -> WorkerSpec:
    """Files under ``root``; ``golden_factor``: what the golden vectors claim, if not the truth."""
    model = root / f"{name}-{version}.onnx"
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "k"], ["y"])],
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor("k", TensorProto.FLOAT, [], [factor])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), model)
    samples = np.arange(8, dtype=np.float32).reshape(2, 1, 4)
    (root / f"{name}-{version}.x").write_bytes(samples.tobytes())
    answers = samples * np.float32(factor if golden_factor is None else golden_factor)
    (root / f"{name}-{version}.y").write_bytes(answers.tobytes())
    return WorkerSpec(
        model=name,
        version=version,
        digest="0" * 64,
        board="local",
        board_folder=Path("/nonexistent"),
        candidate=Candidate("fp32", "onnxruntime", "cpu"),
        file=ModelFile(model, "onnx", INPUTS, OUTPUTS),
        golden=Golden(2, {"x": root / f"{name}-{version}.x"}, {"y": root / f"{name}-{version}.y"}, 1e-6, 0.0),
        max_body_bytes=1 << 20,
    )


def bare_node() -> NodeState:
    """What a front door shows of a node that is nothing but a pool."""
    return NodeState(
        Snapshot(
            time=time.time(),
            node="bare",
            site="test",
            boot_id="0",
            agent_version="0",
            started=time.time(),
            pid=os.getpid(),
            broker="none",
            broker_connected=False,
            revision_seen=0,
            revision_applied=0,
            power_cap_w=None,
            power_w=None,
            http=None,
        )
    )
