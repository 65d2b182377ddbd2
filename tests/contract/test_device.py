"""What every Device x backend promises (``agent/hal/device.py``), real or simulated, over one tiny model per format."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.devices import cpu, litert_cpu, onnx_cpu
from agent.devices.board import open_board
from agent.errors import InferenceError, ModelLoadError, RuntimeUnavailable, TensorError
from agent.hal import Device, ModelFile, Session
from agent.types import TensorSpec
from simulator.board import SimBoard
from simulator.cell import MemoryCell
from simulator.clock import EventClock
from simulator.faults import Timeline
from simulator.physics import Physics
from simulator.profile import board_names, load_profile
from tests.contract.software_vulkan import software_vulkan
from tests.contract.tiny import npu_double, onnx_double, tflite_double

X, Y = TensorSpec("x", "FP32", (-1, 4)), TensorSpec("y", "FP32", (-1, 4))


BACKENDS = {"onnx": "onnxruntime", "tflite": "litert", "npu": "program"}
DOUBLES: dict[str, Callable[..., bytes]] = {
    "onnx": onnx_double,
    "tflite": tflite_double,
    "npu": npu_double,
}  # (shape, dtype) -> file


@dataclass(frozen=True)
class Case:
    board: str
    device: str
    format: str
    event_time: bool = False  # a simulated board whose clock jumps, so that loading takes no time here
    runtime: str = ""  # where the format's usual one is not meant

    @property
    def backend(self) -> str:
        if self.runtime:
            return self.runtime
        return "npu" if (self.format, self.device) == ("npu", "fpga") else BACKENDS[self.format]

    @property
    def double(self) -> Callable[..., bytes]:
        return DOUBLES[self.format]

    def __str__(self) -> str:
        return f"{self.board}/{self.device}/{self.backend}{'/event-time' if self.event_time else ''}"


def simulated() -> list[Case]:
    """Every device of every board, once per format that it opens."""
    return [
        Case(f"sim:{board}", device.id, format, event_time=True)
        for board in board_names()
        for device in load_profile(board).devices
        for format in device.formats
    ]


CASES = [
    Case("local", "cpu", "onnx"),
    Case("local", "cpu", "tflite"),
    Case("local", "cpu", "npu"),
    Case("local", "cpu", "npu", runtime="opencl"),
    Case("local:software-gpu", "gpu", "npu", runtime="opencl"),
    Case("local:software-gpu", "gpu", "tflite"),
    # In real time, with the state that processes share: the device that loads in least time.
    Case("sim:x86-dgpu", "cpu", "onnx"),
    Case("sim:x86-dgpu", "cpu", "tflite"),
    *simulated(),
]
prove_once = functools.cache(cpu.prove_backends)  # a second of subprocesses, for all cases together


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture
def device(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    monkeypatch.setattr(cpu, "prove_backends", prove_once)
    if (case.device, case.format, case.event_time) == ("gpu", "tflite", False):
        monkeypatch.setenv("VK_ICD_FILENAMES", software_vulkan())
    if not case.event_time:
        return open_board(case.board, tmp_path).device(case.device)
    profile = load_profile(case.board.removeprefix("sim:"))
    cell = MemoryCell(Physics(profile, Timeline(profile)), EventClock())
    return SimBoard(profile.name, tmp_path, cell).device(case.device)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What runtimes build, for all tests: kernels are compiled once."""
    return tmp_path_factory.mktemp("engines")


@pytest.fixture
def load(case: Case, device: Device, tmp_path: Path, engines: Path) -> Callable[..., Session]:
    def load(data: bytes | None = None, x: TensorSpec = X, y: TensorSpec = Y, threads: int = 1) -> Session:
        path = tmp_path / f"model.{case.format}"
        path.write_bytes(case.double() if data is None else data)
        file = ModelFile(path, case.format, (x,), (y,), threads, cache=engines)
        return device.open(file, case.backend)

    return load


@pytest.fixture
def session(load: Callable[..., Session]) -> Iterator[Session]:
    opened = load()
    yield opened
    opened.close()


def ramp(batch: int) -> np.ndarray[Any, Any]:
    return np.arange(batch * 4, dtype=np.float32).reshape(batch, 4)


def test_info_lists_the_backend_for_the_format(case: Case, device: Device) -> None:
    formats = {backend.name: backend.formats for backend in device.info.backends}
    assert case.format in formats[case.backend]
    assert device.info.id == case.device
    assert device.info.simulated == case.board.startswith("sim:")


def test_every_simulated_board_is_here() -> None:
    devices = {(case.board, case.device) for case in simulated()}
    kinds = {load_profile(board.removeprefix("sim:")).device(device).kind for board, device in devices}
    assert len({board for board, _ in devices}) >= 5
    assert kinds == {"cpu", "gpu", "fpga"}


def test_runs_and_tells_the_times(session: Session) -> None:
    done = session.run({"x": ramp(1)})
    assert list(done.outputs) == ["y"]
    assert done.outputs["y"].tolist() == [[0, 2, 4, 6]]
    assert done.device_s > 0
    assert done.wall_s > 0


def test_specs_are_those_of_the_model(session: Session) -> None:
    assert session.inputs == (X,)
    assert session.outputs == (Y,)


def test_any_batch_in_any_order(session: Session) -> None:
    for batch in (3, 1, 7, 1):
        assert session.run({"x": ramp(batch)}).outputs["y"].tolist() == (2 * ramp(batch)).tolist()


def test_outputs_of_one_run_outlive_the_next(session: Session) -> None:
    first = session.run({"x": ramp(1)}).outputs["y"]
    session.run({"x": ramp(1) + 5})
    session.close()
    assert first.tolist() == [[0, 2, 4, 6]]


def test_several_threads_give_the_same(load: Callable[..., Session]) -> None:
    assert load(threads=2).run({"x": ramp(2)}).outputs["y"].tolist() == (2 * ramp(2)).tolist()


def test_a_batch_that_the_manifest_fixes_is_the_only_one(load: Callable[..., Session]) -> None:
    fixed = load(x=TensorSpec("x", "FP32", (2, 4)), y=TensorSpec("y", "FP32", (2, 4)))
    assert fixed.run({"x": ramp(2)}).outputs["y"].shape == (2, 4)
    with pytest.raises(TensorError, match=r"'x': wanted FP32 \[2, 4\], got FP32 \[1, 4\]"):
        fixed.run({"x": ramp(1)})


def test_integers(case: Case, load: Callable[..., Session]) -> None:
    opened = load(
        case.double(dtype="INT32"), TensorSpec("x", "INT32", (-1, 4)), TensorSpec("y", "INT32", (-1, 4))
    )
    got = opened.run({"x": np.array([[1, 2, 3, 2**30 - 1]], np.int32)}).outputs["y"]
    assert got.dtype == np.int32
    assert got.tolist() == [[2, 4, 6, 2**31 - 2]]


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ({"x": np.zeros((1, 5), np.float32)}, r"'x': wanted FP32 \[any, 4\], got FP32 \[1, 5\]"),
        ({"x": np.zeros(4, np.float32)}, r"wanted FP32 \[any, 4\], got FP32 \[4\]"),
        ({"x": np.float32(1)}, "wanted a numpy array, got float32"),
        ({"x": np.zeros((0, 4), np.float32)}, r"got FP32 \[0, 4\]"),
        ({"x": np.zeros((1, 4), np.float64)}, r"wanted FP32 \[any, 4\], got FP64 \[1, 4\]"),
        ({"x": np.zeros((1, 4), ">f4")}, "got >f4"),
        ({"x": np.zeros((1, 4), "S4")}, r"got \|S4"),
        ({"x": np.zeros((4, 3), np.float32).T}, "C-contiguous"),
        ({"x": np.zeros((1, 8), np.float32)[:, ::2]}, "C-contiguous"),
        ({"x": [[1.0, 2.0, 3.0, 4.0]]}, "wanted a numpy array, got list"),
        ({}, r"wanted inputs \['x'\], got \[\]"),
        ({"z": np.zeros((1, 4), np.float32)}, r"wanted inputs \['x'\], got \['z'\]"),
        (
            {"x": np.zeros((1, 4), np.float32), "z": np.zeros(1, np.float32)},
            r"wanted inputs \['x'\], got \['x', 'z'\]",
        ),
    ],
)
def test_tensors_that_do_not_fit(session: Session, tensors: dict[str, Any], text: str) -> None:
    with pytest.raises(TensorError, match=text):
        session.run(tensors)
    assert session.run({"x": ramp(1)}).outputs["y"].tolist() == [[0, 2, 4, 6]]  # unharmed


def test_a_closed_session_says_so(session: Session) -> None:
    session.close()
    with pytest.raises(InferenceError, match="closed"):
        session.run({"x": ramp(1)})
    session.close()


@pytest.mark.parametrize("keep", [0, 7, 8, 40, 70])
def test_a_truncated_file(case: Case, load: Callable[..., Session], keep: int) -> None:
    with pytest.raises(ModelLoadError, match=r"does not load model\.\w+: .+; .* pack a new version"):
        load(case.double()[:keep])


def test_a_file_of_something_else(load: Callable[..., Session]) -> None:
    with pytest.raises(ModelLoadError):
        load(b"<html>404 Not Found</html>" * 50)


def test_a_file_that_is_not_there(case: Case, device: Device, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError):
        device.open(ModelFile(tmp_path / "none", case.format, (X,), (Y,)), case.backend)


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (TensorSpec("input", "FP32", (-1, 4)), r"promises inputs \['input'\], the model has \['x'\]"),
        (TensorSpec("x", "INT8", (-1, 4)), r"promises INT8 \[any, 4\], the model has FP32 \[any, 4\]"),
        (TensorSpec("x", "FP32", (-1, 5)), r"promises FP32 \[any, 5\]"),
        (TensorSpec("x", "FP32", (-1, 4, 1)), r"promises FP32 \[any, 4, 1\]"),
    ],
)
def test_a_manifest_that_promises_other_inputs(
    load: Callable[..., Session], x: TensorSpec, text: str
) -> None:
    with pytest.raises(ModelLoadError, match=text):
        load(x=x)


def test_a_manifest_that_promises_other_outputs(load: Callable[..., Session]) -> None:
    with pytest.raises(ModelLoadError, match="output 'y'"):
        load(y=TensorSpec("y", "FP32", (-1, 3)))


def test_a_free_batch_needs_a_model_that_has_one(case: Case, load: Callable[..., Session]) -> None:
    with pytest.raises(ModelLoadError, match=r"promises FP32 \[any, 4\], the model has FP32 \[1, 4\]"):
        load(case.double((1, 4)))


def test_an_unknown_backend_and_a_foreign_format(case: Case, device: Device, tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailable, match="no backend 'tensorrt'"):
        device.open(ModelFile(tmp_path / "m", case.format, (X,), (Y,)), "tensorrt")
    with pytest.raises(RuntimeUnavailable, match="not hef"):
        device.open(ModelFile(tmp_path / "m", "hef", (X,), (Y,)), case.backend)


def test_the_models_of_the_probe_are_the_ones_made_here() -> None:
    assert onnx_double() == onnx_cpu.TINY
    assert tflite_double() == litert_cpu.TINY
