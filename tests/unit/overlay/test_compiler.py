"""Whole models: imported, lowered, and what does not fit left to the CPU; the outputs stay the golden model's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from agent.devices.parts import open_part
from agent.errors import ModelLoadError, UnsupportedModel
from agent.overlay.compiler import compile_graph, compile_model
from agent.overlay.driver import Driver
from agent.overlay.execute import execute
from agent.overlay.program import Part, Program, Segment
from agent.overlay.programfile import read_program, write_program
from agent.overlay.selftest import self_test_graph
from agent.overlay.spec import Overlay
from simulator.overlay.functional import FunctionalTransport
from tests.unit.overlay import tflite_nets
from tests.unit.overlay.onnx_nets import Array, Net, random_inputs, runtime
from tests.unit.overlay.plans import NPU, SMALL, tiny


def convolution(
    net: Net, x: str, steps: list[str], into: int, out: int, kernel: int
) -> tuple[str, list[str]]:
    """A QLinearConv, and the scale and zero point of its output."""
    after = net.steps(net.scale(0.05, 0.1))
    weights = net.constant(net.weights((out, into, kernel, kernel)))
    rest = [net.constant(np.float32(0.01)), net.constant(np.int8(0)), *after]
    pad = kernel // 2
    return net.node("QLinearConv", [x, *steps, weights, *rest], pads=[pad] * 4), after


def three(seed: int) -> onnx.ModelProto:
    """Three convolutions, the middle one over many channels of wide rows."""
    net = Net(seed)
    x = net.input([1, 3, 6, 40])
    steps = net.steps()
    x, steps = convolution(net, x, steps, 3, 60, 3)
    x, steps = convolution(net, x, steps, 60, 20, 3)
    x, _ = convolution(net, x, steps, 20, 5, 1)
    return net.model(x)


def run(spec: Overlay, program: Program, inputs: Mapping[str, Array]) -> dict[str, Any]:
    """Through the driver on the functional overlay, CPU segments in their own runtime."""
    driver = Driver(FunctionalTransport(spec), spec)
    loaded = driver.load(program)
    parts = {id(step): open_part(step, 1) for step in program.steps if isinstance(step, Part)}
    outputs = execute(
        program,
        inputs,
        lambda segment, given: loaded.run(segment, given).outputs,
        lambda part, given: parts[id(part)](given),
    )
    driver.close()
    return outputs


def kinds(program: Program) -> list[str]:
    return [type(step).__name__ for step in program.steps]


@pytest.mark.parametrize("spec", [NPU, SMALL], ids=lambda spec: spec.id)
def test_onnx(spec: Overlay, tmp_path: Path) -> None:
    model = three(1)
    path = tmp_path / "three.onnx"
    path.write_bytes(model.SerializeToString())
    said: list[tuple[str, float]] = []
    program = compile_model(path, spec, lambda text, share: said.append((text, share)))
    assert (program.name, program.overlay, kinds(program)) == ("three", spec.id, ["Segment"])
    assert [share for _, share in said] == sorted(share for _, share in said) and len(said) > 1
    inputs = random_inputs(model, np.random.default_rng(1))
    wanted = runtime(path.read_bytes(), inputs)
    for name, array in run(spec, program, inputs).items():
        np.testing.assert_array_equal(array, wanted[name])


def test_what_does_not_fit_becomes_a_cpu_segment() -> None:
    spec = tiny(NPU, 450, 1024)
    model = three(2)
    program = compile_model(model.SerializeToString(), spec)
    assert kinds(program) == ["Segment", "Part", "Segment"]
    part = program.steps[1]
    assert isinstance(part, Part)
    assert part.foreign.why.startswith("one row of its output needs 480 words of 16 bytes of its input")
    program = read_program(write_program(program), spec)
    inputs = random_inputs(model, np.random.default_rng(2))
    wanted = runtime(model.SerializeToString(), inputs)
    for name, array in run(spec, program, inputs).items():
        np.testing.assert_array_equal(array, wanted[name])


def test_tflite() -> None:
    data = tflite_net()
    program = compile_model(data, NPU, name="net")
    assert (program.name, kinds(program)) == ("net", ["Segment", "Host"])
    spec = tiny(NPU, 100, 512)
    split = compile_model(data, spec)
    assert kinds(split) == ["Part", "Segment", "Host"]
    x = np.random.default_rng(4).integers(-128, 128, program.inputs[0].shape).astype(np.int8)
    whole, parted = (
        run(of, made, {program.inputs[0].name: x}) for of, made in ((NPU, program), (spec, split))
    )
    for name, array in whole.items():
        step = float(np.diff(np.unique(array)).min())
        np.testing.assert_allclose(array, parted[name], atol=2.5 * step)  # LiteRT rounds otherwise


def tflite_net() -> bytes:
    """A convolution of wide rows, a smaller one, numbers."""
    net = tflite_nets.Net(4)
    x = tflite_nets.convolution(net, net.input([1, 6, 60, 3]), (8, 3, 4, 3), [1, 4, 15, 8], stride=(1, 4))
    y = tflite_nets.convolution(net, x, (5, 1, 1, 8), [1, 4, 15, 5])
    return net.model(net.operator("DEQUANTIZE", [y], net.tensor([1, 4, 15, 5], None, "FLOAT32")))


def test_chains_that_would_be_too_long_are_several(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = self_test_graph()
    x = {"x": np.random.default_rng(1).integers(-128, 128, (1, 3, 16, 16)).astype(np.int8)}
    whole = run(NPU, compile_graph(graph, NPU), x)
    monkeypatch.setattr("agent.overlay.lower.segment.MOST_DESCRIPTORS", 11)
    parts = compile_graph(graph, NPU)
    assert kinds(parts) == ["Segment"] * 2
    assert run(NPU, parts, x)["y"].tolist() == whole["y"].tolist()
    monkeypatch.setattr("agent.overlay.lower.segment.MOST_DESCRIPTORS", 2)
    with pytest.raises(UnsupportedModel, match="descriptors are more than a chain can have"):
        compile_graph(graph, NPU)


def test_what_runs_beside_the_overlay_waits_for_layers() -> None:
    """A result in the middle of a net does not cut it into two segments."""
    net = Net(7)
    x, steps = net.input([1, 3, 8, 8]), net.steps()
    y, after = convolution(net, x, steps, 3, 5, 3)
    early = net.dequantize(y, after)
    z, last = convolution(net, y, after, 5, 6, 1)
    model = net.model(early, net.dequantize(z, last))
    program = compile_model(model.SerializeToString(), NPU)
    assert kinds(program) == ["Segment", "Host", "Host"]
    inputs = random_inputs(model, np.random.default_rng(7))
    wanted = runtime(model.SerializeToString(), inputs)
    for name, array in run(NPU, program, inputs).items():
        np.testing.assert_array_equal(array, wanted[name])


def test_models_of_which_nothing_fits() -> None:
    with pytest.raises(
        UnsupportedModel, match=r"nothing of model can run on overlay npu: layer .*: one row of its output"
    ):
        compile_model(three(3).SerializeToString(), tiny(NPU, 8, 64))


def test_graphs_have_nowhere_else_to_go() -> None:
    with pytest.raises(
        UnsupportedModel, match="layer a does not fit overlay npu: one row of its output needs"
    ):
        compile_graph(self_test_graph(), tiny(NPU, 8, 64))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="No such file"):
        compile_model(tmp_path / "none.onnx", NPU)
    with pytest.raises(ModelLoadError):
        compile_model(b"\x08\x07nonsense", NPU)
    with pytest.raises(ModelLoadError):
        compile_model(b"\0\0\0\0TFL3nonsense", NPU)


def test_segments_share_the_weight_memory_one_after_the_other() -> None:
    """Each has its own resident weights; running one and then the other loads them anew."""
    spec = tiny(NPU, 450, 1024)
    model = three(5)
    program = compile_model(model.SerializeToString(), spec)
    first, last = (step for step in program.steps if isinstance(step, Segment))
    assert first.resident is not None and last.resident is not None
    driver = Driver(FunctionalTransport(spec), spec)
    loaded = driver.load(program)
    rng = np.random.default_rng(1)
    given = {
        id(segment): {
            binding.tensor.name: rng.integers(0, 256, binding.tensor.shape).astype(np.uint8)
            for binding in segment.inputs
        }
        for segment in (first, last)
    }
    alone = {id(segment): loaded.run(segment, given[id(segment)]).outputs for segment in (first, last)}
    for segment in (first, last, last, first):
        for name, array in loaded.run(segment, given[id(segment)]).outputs.items():
            np.testing.assert_array_equal(array, alone[id(segment)][name])
    driver.close()
