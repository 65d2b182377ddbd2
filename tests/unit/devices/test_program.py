"""Overlay programs as sessions: on the CPU by the golden model, and on an FPGA whose overlay is simulated."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.devices import fpga
from agent.devices.cpu import CpuDevice
from agent.devices.fpga import FpgaDevice
from agent.errors import (
    DmaTimeout,
    InferenceError,
    ModelLoadError,
    OverlayHung,
    OverlayLoadError,
    ProgramError,
    RuntimeUnavailable,
    TensorError,
)
from agent.hal import Device, ModelFile, OverlayTransport
from agent.overlay.archive import write_archive
from agent.overlay.compiler import compile_graph, compile_model
from agent.overlay.programfile import write_program
from agent.overlay.selftest import self_test_graph
from agent.overlay.spec import load_spec, overlay_folder
from agent.types import SELF_TEST, TensorSpec
from simulator.overlay.functional import FunctionalTransport
from tests.contract.tiny import npu_double
from tests.unit.overlay.faulty import FaultyTransport

DIGITS = Path(__file__).parents[3] / "models" / "digits"
INPUTS = (TensorSpec("image", "FP32", (-1, 1, 8, 8)),)
OUTPUTS = (TensorSpec("logits", "FP32", (-1, 10)),)
X, Y = TensorSpec("x", "INT8", (1, 3, 16, 16)), TensorSpec("y", "INT8", (1, 10))


def compiled(overlay: str) -> bytes:
    return write_program(compile_model(DIGITS / "digits-int8.onnx", load_spec(overlay)))


@pytest.fixture(scope="module")
def programs() -> dict[str, bytes]:
    return {name: compiled(name) for name in ("npu", "npu-small")}


@pytest.fixture
def file(programs: dict[str, bytes], tmp_path: Path) -> Callable[..., ModelFile]:
    def make(overlay: str = "npu", data: bytes | None = None, archive: Path | None = None) -> ModelFile:
        path = tmp_path / f"{overlay}.npu"
        path.write_bytes(programs[overlay] if data is None else data)
        return ModelFile(path, "npu", INPUTS, OUTPUTS, overlay=archive)

    return make


class Loads:
    """Opens functional transports and remembers them."""

    def __init__(self) -> None:
        self.folders: list[Path] = []
        self.transports: list[FaultyTransport] = []
        self.fails = False

    def open(self, folder: Path) -> OverlayTransport:
        if self.fails:
            raise OverlayLoadError("the FPGA does not take the bitstream")
        from agent.overlay.spec import read_spec

        spec = read_spec(folder)
        self.folders.append(folder)
        self.transports.append(FaultyTransport(FunctionalTransport(spec), spec))
        return self.transports[-1]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    made = Loads()
    monkeypatch.setattr("agent.devices.slot.find_transport", lambda name: made.open)
    return made


@pytest.fixture
def device(loads: Loads) -> FpgaDevice:
    return FpgaDevice("fpga", "an FPGA", "functional")


@pytest.fixture
def digits() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Images and ONNX Runtime's answers."""
    import onnxruntime

    images = np.load(DIGITS / "golden" / "image.npy")[:5]
    session = onnxruntime.InferenceSession(str(DIGITS / "digits-int8.onnx"))
    return images, session.run(["logits"], {"image": images})[0]


Digits = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


# -- both ways ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["cpu", "fpga"])
def opened(request: pytest.FixtureRequest) -> tuple[Device, str]:
    if request.param == "cpu":
        return CpuDevice(), "program"
    return request.getfixturevalue("device"), "npu"


def test_answers_as_the_runtime_does_in_any_batch(
    opened: tuple[Device, str], file: Callable[..., ModelFile], digits: Digits
) -> None:
    device, backend = opened
    session = device.open(file(), backend)
    assert (session.inputs, session.outputs) == (INPUTS, OUTPUTS)
    images, logits = digits
    for first, last in ((0, 5), (1, 2), (2, 5)):
        done = session.run({"image": images[first:last]})
        assert np.array_equal(done.outputs["logits"], logits[first:last])
        assert done.device_s > 0
        assert done.wall_s > 0
    session.close()
    session.close()
    with pytest.raises(InferenceError, match="closed"):
        session.run({"image": images})


def test_outputs_of_one_run_outlive_the_next(
    opened: tuple[Device, str], file: Callable[..., ModelFile], digits: Digits
) -> None:
    device, backend = opened
    session = device.open(file(), backend)
    images, logits = digits
    first = session.run({"image": images[:1]}).outputs["logits"]
    session.run({"image": images[1:2]})
    assert np.array_equal(first, logits[:1])


def test_tensors_and_manifests_that_do_not_fit(
    opened: tuple[Device, str], file: Callable[..., ModelFile]
) -> None:
    device, backend = opened
    with pytest.raises(TensorError, match=r"'image': wanted FP32 \[any, 1, 8, 8\]"):
        device.open(file(), backend).run({"image": np.zeros((1, 64), np.float32)})
    made = file()
    with pytest.raises(ModelLoadError, match=r"promises FP32 \[any, 9\], the model has FP32 \[any, 10\]"):
        wrong = (TensorSpec("logits", "FP32", (-1, 9)),)
        device.open(ModelFile(made.path, "npu", INPUTS, wrong), backend)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_truncated_program(
    opened: tuple[Device, str], file: Callable[..., ModelFile], programs: dict[str, bytes], keep: int
) -> None:
    device, backend = opened
    with pytest.raises(ProgramError, match=r"does not load npu\.npu: .*deploy it again"):
        device.open(file(data=programs["npu"][:keep]), backend)


def test_a_program_that_is_not_there(opened: tuple[Device, str], tmp_path: Path) -> None:
    device, backend = opened
    with pytest.raises(ModelLoadError, match="deploy it again"):
        device.open(ModelFile(tmp_path / "none.npu", "npu", INPUTS, OUTPUTS), backend)


def test_other_backends_and_formats(
    device: FpgaDevice, file: Callable[..., ModelFile], tmp_path: Path
) -> None:
    with pytest.raises(RuntimeUnavailable, match="no backend 'onnxruntime'; there are npu, self-test"):
        device.open(file(), "onnxruntime")
    with pytest.raises(RuntimeUnavailable, match="npu opens npu, not onnx"):
        device.open(ModelFile(tmp_path / "m.onnx", "onnx", INPUTS, OUTPUTS), "npu")
    with pytest.raises(RuntimeUnavailable, match="program opens npu, not tflite"):
        CpuDevice().open(ModelFile(tmp_path / "m.tflite", "tflite", INPUTS, OUTPUTS), "program")


def test_a_program_with_a_cpu_segment_tells_what_it_takes_of_each_device(
    device: FpgaDevice, file: Callable[..., ModelFile], digits: Digits, tmp_path: Path
) -> None:
    path = tmp_path / "double.npu"
    path.write_bytes(npu_double())
    x, y = (TensorSpec(name, "FP32", (-1, 4)) for name in "xy")
    double = ModelFile(path, "npu", (x,), (y,))
    images = np.arange(24, dtype=np.float32).reshape(6, 4)
    on_fpga = device.open(double, "npu").run({"x": images})
    assert on_fpga.outputs["y"].tolist() == (2 * images).tolist()
    assert on_fpga.parts.keys() == {"cpu", "fpga"}
    assert max(on_fpga.parts.values()) <= on_fpga.device_s < sum(on_fpga.parts.values())
    assert CpuDevice().open(double, "program").run({"x": images}).parts == {}
    assert device.open(file(), "npu").run({"image": digits[0]}).parts == {}  # packing is no segment


# -- one overlay at a time ---------------------------------------------------------------------------------------------


def test_programs_share_an_overlay_and_another_one_is_loaded_when_needed(
    device: FpgaDevice, loads: Loads, file: Callable[..., ModelFile], digits: Digits
) -> None:
    images, logits = digits
    one, two = device.open(file(), "npu"), device.open(file(), "npu")
    small = device.open(file("npu-small"), "npu")
    assert [folder.name for folder in loads.folders] == ["npu", "npu-small"]
    assert loads.transports[0].closed
    for session in (one, two, one, small):
        assert np.array_equal(session.run({"image": images}).outputs["logits"], logits)
    assert [folder.name for folder in loads.folders] == ["npu", "npu-small", "npu", "npu-small"]
    one.close()
    two.close()
    assert np.array_equal(small.run({"image": images}).outputs["logits"], logits)
    assert len(loads.folders) == 4


@pytest.mark.parametrize(("fault", "error"), [("hang", OverlayHung), ("load", DmaTimeout)])
def test_after_a_hang_the_overlay_is_loaded_anew(
    device: FpgaDevice, loads: Loads, file: Callable[..., ModelFile], digits: Digits, fault: str,
    error: type[Exception],
) -> None:  # fmt: skip
    images, logits = digits
    session = device.open(file(), "npu")
    loads.transports[0].fault = fault
    with pytest.raises(error):
        session.run({"image": images})
    assert loads.transports[0].closed
    assert np.array_equal(session.run({"image": images}).outputs["logits"], logits)
    assert len(loads.transports) == 2


def test_an_overlay_that_does_not_load(
    device: FpgaDevice, loads: Loads, file: Callable[..., ModelFile]
) -> None:
    loads.fails = True
    with pytest.raises(OverlayLoadError, match="does not take"):
        device.open(file(), "npu")
    loads.fails = False
    device.open(file(), "npu")


def test_a_transport_that_there_is_not(file: Callable[..., ModelFile]) -> None:
    with pytest.raises(RuntimeUnavailable, match="'warp'; choose one of: functional, pynq"):
        FpgaDevice("fpga", "an FPGA", "warp").open(file(), "npu")


# -- delivered overlays ------------------------------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path: Path) -> Callable[..., Path]:
    def make(version: int = 1, hz: str = "100_000_000") -> Path:
        folder = tmp_path / f"npu-{version}-{hz}"
        folder.mkdir(exist_ok=True)
        text = (overlay_folder("npu") / "overlay.toml").read_text()
        text = text.replace("version = 1\n", f"version = {version}\n").replace(
            "hz = 100_000_000", f"hz = {hz}"
        )
        (folder / "overlay.toml").write_text(text)
        from agent.overlay.spec import read_spec

        program = compile_graph(self_test_graph(), read_spec(folder))
        path = tmp_path / f"npu-{version}.overlay"
        path.write_bytes(write_archive(folder, write_program(program)))
        return path

    return make


def test_an_overlay_answers_its_self_test(
    device: FpgaDevice, loads: Loads, archive: Callable[..., Path]
) -> None:
    image = {"x": np.random.default_rng(1).integers(-128, 128, X.shape, np.int8)}
    answers = []
    for version in (1, 2):
        session = device.open(ModelFile(archive(version), "overlay", (X,), (Y,)), SELF_TEST)
        answers.append(session.run(image).outputs["y"].tolist())
        session.close()
    assert answers[0] == answers[1]
    assert len(set(loads.folders)) == 2


def test_a_program_runs_on_the_overlay_that_was_delivered_with_it(
    device: FpgaDevice,
    loads: Loads,
    archive: Callable[..., Path],
    file: Callable[..., ModelFile],
    digits: Digits,
) -> None:
    images, logits = digits
    again = archive().with_name("again")
    shutil.copy(archive(), again)
    for path in (archive(), again):
        session = device.open(file(archive=path), "npu")
        assert np.array_equal(session.run({"image": images}).outputs["logits"], logits)
    assert len(loads.folders) == 1  # equal archives are one overlay
    assert loads.folders[0].parent != overlay_folder("npu").parent


def test_device_time_is_that_of_the_overlays_clock(
    device: FpgaDevice, archive: Callable[..., Path], file: Callable[..., ModelFile], digits: Digits
) -> None:
    session = device.open(file(archive=archive(hz="1_000_000")), "npu")
    done = session.run({"image": digits[0]})
    assert 5 * 9e-3 < done.device_s < 5 * 12e-3 + done.wall_s  # five images of some 9000 cycles


def test_a_program_for_another_version_is_refused_before_the_overlay_is_loaded(
    device: FpgaDevice, loads: Loads, archive: Callable[..., Path], file: Callable[..., ModelFile]
) -> None:
    with pytest.raises(
        ProgramError, match="is for overlay npu version 1 with 16 lanes, not for npu version 2"
    ):
        device.open(file(archive=archive(2)), "npu")
    assert not loads.folders


def test_unpacked_overlays_go_where_they_are_told(
    loads: Loads, archive: Callable[..., Path], file: Callable[..., ModelFile], tmp_path: Path
) -> None:
    device = FpgaDevice("fpga", "an FPGA", "functional", tmp_path / "run")
    device.open(file(archive=archive()), "npu")
    assert loads.folders[0].parent == tmp_path / "run"


def test_an_archive_that_is_none(device: FpgaDevice, tmp_path: Path, file: Callable[..., ModelFile]) -> None:
    path = tmp_path / "broken"
    path.write_bytes(b"PK")
    with pytest.raises(OverlayLoadError, match="pack it again"):
        device.open(ModelFile(path, "overlay", (X,), (Y,)), SELF_TEST)
    with pytest.raises(ModelLoadError, match="cannot be read"):
        device.open(file(archive=tmp_path / "none"), "npu")


def test_the_device_is_known_without_numpy() -> None:
    info = FpgaDevice("fpga0", "an FPGA", "pynq").info
    assert (info.id, info.kind, info.backends) == ("fpga0", "fpga", fpga.FPGA_BACKENDS)
