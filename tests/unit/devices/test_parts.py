"""CPU segments of overlay programs, alone and between an overlay's segments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.devices import parts
from agent.devices.cpu import CpuDevice
from agent.devices.parts import open_part
from agent.errors import InferenceError, ModelLoadError, RuntimeUnavailable
from agent.hal import ModelFile
from agent.overlay.execute import execute
from agent.overlay.functional import run_layers
from agent.overlay.graph import Foreign, Host
from agent.overlay.program import Part, Program, Segment
from agent.overlay.programfile import write_program
from agent.overlay.regions import Arrays
from agent.types import TensorSpec
from tests.contract.tiny import onnx_double, tflite_double
from tests.unit.overlay.handmade import NPU, conv, conv_segment, image, program, tensor

DOUBLES: dict[str, Callable[[], bytes]] = {
    "onnx": lambda: onnx_double((1, 4)),
    "tflite": lambda: tflite_double((1, 4)),
}
FOREIGN = Foreign(("x",), ("y",), ("node_a", "node_b"), "no such layer")


@pytest.fixture(params=DOUBLES)
def part(request: pytest.FixtureRequest) -> Part:
    return Part(FOREIGN, request.param, DOUBLES[request.param]())


def test_runs_again_and_again(part: Part) -> None:
    run = open_part(part, 1)
    for seed in range(3):
        x = np.random.default_rng(seed).random((1, 4), np.float32)
        assert run({"x": x})["y"].tolist() == (2 * x).tolist()


def test_a_part_that_does_not_load(part: Part) -> None:
    with pytest.raises(
        ModelLoadError, match=r"CPU segment of node_a, node_b does not load: .*compile the model again"
    ):
        open_part(replace(part, model=part.model[:40]), 1)


def test_a_run_that_fails(part: Part) -> None:
    with pytest.raises(InferenceError, match="the CPU segment of node_a, node_b failed"):
        open_part(part, 1)({"x": np.zeros((3, 9), np.float32)})


def test_a_format_that_nothing_opens(part: Part) -> None:
    with pytest.raises(ModelLoadError, match="format 'hef'"):
        open_part(replace(part, format="hef"), 1)


def test_a_board_without_the_runtime(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(part: Part, threads: int) -> parts.RunPart:
        raise ImportError("No module named it")

    monkeypatch.setattr(parts, "_open_onnx", missing)
    monkeypatch.setattr(parts, "_open_tflite", missing)
    with pytest.raises(
        RuntimeUnavailable, match=r"needs a runtime for .*pip install 'overlaid\[onnx,litert\]'"
    ):
        open_part(part, 1)


def mixed() -> tuple[Program, Segment]:
    """A convolution to 4 channels, dequantised, doubled by a part."""
    source = tensor("image", 3, 4, 4, 2)
    layer, target = conv(1, source, 4, (4, 4))
    segment = conv_segment(NPU, layer, source, target)
    flatten = Host("reshape", ("y",), ("flat",), {"shape": (1, 4)}, ("flatten",))
    scale = Host("dequantize", ("flat",), ("x",), {"scale": (0.5,), "zero_point": (3,)}, ("dequantize",))
    double = Part(Foreign(("x",), ("y2",), ("double",), "why"), "onnx", _renamed())
    made = program(NPU, segment)
    steps = (segment, flatten, scale, double)
    return replace(made, steps=steps, outputs=(TensorSpec("y2", "FP32", (1, 4)),)), segment


def _renamed() -> bytes:
    import onnx

    model = onnx.load_model_from_string(onnx_double((1, 4)))
    model.graph.node[0].output[0] = model.graph.output[0].name = "y2"
    return bytes(model.SerializeToString())


def wanted(segment: Segment, seed: int) -> list[float]:
    sums = run_layers(segment.layers, {"image": image(seed, segment.inputs[0].tensor)})["y"]
    found: list[float] = (sums.ravel().astype(np.float32) - 3).tolist()  # x 0.5 x 2
    return found


def test_steps_hand_their_tensors_on() -> None:
    made, segment = mixed()
    seen: list[str] = []

    def run_segment(step: Segment, given: Arrays) -> Arrays:
        seen.append("segment")
        return {"y": run_layers(step.layers, {"image": given["image"][0]})["y"][None]}

    def run_part(step: Part, given: Arrays) -> Arrays:
        seen.append("part")
        assert given.keys() == {"x"}
        return {"y2": 2 * given["x"]}

    outputs = execute(made, {"image": image(1, segment.inputs[0].tensor)[None]}, run_segment, run_part)
    assert seen == ["segment", "part"]
    assert list(outputs) == ["y2"]
    assert outputs["y2"].ravel().tolist() == wanted(segment, 1)


def test_a_program_with_a_part_is_served(tmp_path: Path) -> None:
    made, segment = mixed()
    path = tmp_path / "mixed.npu"
    path.write_bytes(write_program(made))
    session = CpuDevice().open(ModelFile(path, "npu", made.inputs, made.outputs), "program")
    for seed in range(2):
        done = session.run({"image": image(seed, segment.inputs[0].tensor)[None]})
        assert done.outputs["y2"].ravel().tolist() == wanted(segment, seed)
        assert 0 < done.device_s <= done.wall_s
