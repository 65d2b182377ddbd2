from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from agent.devices import board as board_module
from agent.devices.board import LocalBoard, open_board
from agent.devices.fpga_service.wire import SOCKET_VARIABLE
from agent.devices.gpu.device import GpuDevice
from agent.devices.gpu.gpus import Gpu
from agent.devices.probe import probe_board
from agent.errors import DeviceLost, RuntimeUnavailable
from agent.hal import Board
from agent.types import to_jsonable
from tests.unit.devices.fpga_lending import copy_overlay, lending

FOLDER = Path("/nonexistent")


class NamedBoard:
    """A board whose factory takes the part after ':'."""

    def __init__(self, model: str, _folder: Path) -> None:
        self.model = model


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("local", "agent.devices.board:LocalBoard", board_module.GROUP),
        EntryPoint("named", f"{__name__}:NamedBoard", board_module.GROUP),
        EntryPoint("lost", "agent.devices.nowhere:Board", board_module.GROUP),
    ]
    monkeypatch.setattr(board_module, "installed_boards", lambda: {point.name: point for point in points})


def test_the_local_board() -> None:
    board: Board = open_board("local", FOLDER)
    assert isinstance(board, LocalBoard)
    assert board.device("cpu") is board.device("cpu")
    with pytest.raises(RuntimeUnavailable, match="no device 'fpga0' on this board; it has: cpu"):
        board.device("fpga0")


def test_the_part_after_the_colon_goes_to_the_factory(named: None) -> None:
    board: object = open_board("named:pynq-z2", FOLDER)
    assert isinstance(board, NamedBoard)
    assert board.model == "pynq-z2"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("zedboard", "no board 'zedboard'; set board to one of: local, lost, named"),
        ("", "no board ''"),
        ("local:x", "no board local:x; set board to local or local:software-gpu"),
        ("lost", "No module named 'agent.devices.nowhere'"),
    ],
)
def test_boards_that_cannot_be_opened(named: None, name: str, text: str) -> None:
    with pytest.raises(RuntimeUnavailable, match=text):
        open_board(name, FOLDER)


def test_the_probe_describes_this_machine() -> None:
    info = probe_board("local", FOLDER)
    assert (info.name, info.simulated) == ("local", False)
    (device,) = info.devices
    assert {backend.name for backend in device.backends} == {"onnxruntime", "litert", "program", "opencl"}
    assert all(backend.version for backend in device.backends)
    assert info.meters or info.problems


def test_the_probe_prints_json() -> None:
    command = [sys.executable, "-m", "agent.devices.probe", "local", "/nonexistent"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == to_jsonable(probe_board("local", FOLDER))


def test_the_probe_passes_the_boards_error_on() -> None:
    with pytest.raises(RuntimeUnavailable, match="there is no board 'zedboard'"):
        probe_board("zedboard", FOLDER)


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("sleep 600", "took longer than 0.3 s; see where it hangs with"),
        ("kill -SEGV $$", "crashed with SIGSEGV"),
        ("kill -40 $$", "crashed with signal 40"),
        ("echo out of memory >&2; exit 1", "failed: out of memory"),
        ("echo '{}'", "failed: it printed no error"),
        ("echo '[]'", "failed"),
        ("""echo '{"error": 3}'""", "failed"),
        ("""echo '{"name": "x", "simulated": false, "devices": 7}'""", "failed"),
    ],
)
def test_a_probe_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, text: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{'exec ' if script.startswith('sleep') else ''}{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(RuntimeUnavailable, match=text):
        probe_board("local", FOLDER, timeout_s=0.3 if script.startswith("sleep") else 30)


@pytest.fixture
def lent(tmp_path: Path) -> Iterator[Path]:
    """A service that lends a functional overlay as this machine's FPGA; the board's folder."""
    copy_overlay("npu", tmp_path / "opt")
    with lending(tmp_path / "opt"):
        yield tmp_path


def test_an_fpga_is_a_device_when_its_service_answers(lent: Path) -> None:
    board = LocalBoard("", lent)
    cpu, fpga = board.describe().devices
    assert (cpu.id, fpga.id, fpga.kind, fpga.name) == ("cpu", "fpga", "fpga", "a board")
    assert fpga.overlays == ()  # none ships with a bitstream for this machine
    assert board.device("fpga").info.id == "fpga"
    with pytest.raises(RuntimeUnavailable, match="it has: cpu, fpga"):
        board.device("npu")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[Gpu]:
    """What the kernel shows."""
    found: list[Gpu] = []
    monkeypatch.setattr("agent.devices.gpu.device.find_gpus", lambda software: tuple(found))
    return found


def test_a_gpu_that_is_gone_is_lost(gpus: list[Gpu]) -> None:
    board = LocalBoard("", FOLDER)
    gpus.append(Gpu("gpu", "Mali", "arm"))
    assert isinstance(board.device("gpu"), GpuDevice)
    gpus.clear()
    with pytest.raises(DeviceLost, match="no device 'gpu' on this board; it has: cpu"):
        board.device("gpu")


def test_a_gpu_without_a_driver_is_a_problem_of_the_board(gpus: list[Gpu]) -> None:
    gpus.append(Gpu("gpu", "Intel GPU 8086:46a6", "intel", "0000:00:02.0"))
    info = LocalBoard("", FOLDER).describe()
    assert [device.id for device in info.devices] == ["cpu"]
    assert any(text.startswith("gpu: no driver is bound to Intel GPU 8086:46a6") for text in info.problems)


def test_the_cpu_plays_a_gpu_when_asked_by_name() -> None:
    info = probe_board("local:software-gpu", FOLDER)
    gpu = next(device for device in info.devices if device.id == "gpu")
    assert (info.name, info.simulated, gpu.kind) == ("local:software-gpu", False, "gpu")
    assert gpu.note == f"software: {gpu.name}, on the CPU's cores"
    assert ("opencl", ("npu",)) in {(backend.name, backend.formats) for backend in gpu.backends}


def test_a_worker_opens_a_gpu_without_what_probing_needs() -> None:
    script = (
        "import sys; from pathlib import Path; from agent.devices.board import open_board;"
        "open_board('local:software-gpu', Path('/nonexistent')).device('gpu');"
        "print(*{'pydantic', 'numpy', 'pyopencl', 'onnxruntime'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == []


def test_an_overlay_that_ships_with_a_bitstream(lent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.devices.bitstream.find_bitstream", lambda folder, machine: folder)
    fpga = LocalBoard("", lent).describe().devices[1]
    assert {(overlay.id, overlay.lanes) for overlay in fpga.overlays} == {("npu", 16), ("npu-small", 8)}


@pytest.mark.parametrize("there", [True, False])
def test_an_fpga_without_the_service_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    monkeypatch.setenv(SOCKET_VARIABLE, str(tmp_path / "absent"))
    monkeypatch.setattr(board_module, "FPGA_MANAGER", tmp_path if there else tmp_path / "absent")
    info = LocalBoard("", tmp_path).describe()
    assert [device.id for device in info.devices] == ["cpu"]
    problems = [problem for problem in info.problems if problem.startswith("fpga: ")]
    assert len(problems) == there
    assert all("systemctl status overlaid-fpga" in problem for problem in problems)
