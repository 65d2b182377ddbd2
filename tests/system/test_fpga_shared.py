"""Several processes on one lent FPGA, each with its own program: all answers are right, and nobody stops the others."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from agent.devices.remote_transport import ask_status
from agent.overlay.compiler import compile_model
from agent.overlay.programfile import write_program
from agent.overlay.spec import load_spec
from tests.system import test_fpga_service
from tests.system.digits import ROOT
from tests.system.stage import wait_until
from tests.system.test_fpga_service import Service
from tests.unit.devices.fpga_lending import copy_overlay

DIGITS = ROOT / "models/digits/digits-int8.onnx"
CAMERA = ROOT / "models/camera-digits/camera-digits-int8.tflite"

root, service = test_fpga_service.root, test_fpga_service.service


@contextmanager
def client(
    root: Path, tmp_path: Path, overlay: str, model: Path, *numbers: int
) -> Iterator[subprocess.Popen[str]]:
    """A process that runs ``model``; see ``fpga_client`` for the numbers. It is ended with the block."""
    program = tmp_path / f"{overlay}-{model.stem}.npu"
    program.write_bytes(write_program(compile_model(model, load_spec(overlay))))
    command = [sys.executable, "-m", "tests.system.fpga_client", str(root / overlay), str(program)]
    command += map(str, numbers)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        try:
            assert lines(process, 1) == ["ready\n"]
            yield process
        finally:
            process.kill()


def begin(*processes: subprocess.Popen[str]) -> None:
    """Tell them to."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    """The next lines that it prints; fewer when it ends."""
    assert process.stdout is not None
    return [line for line in (process.stdout.readline() for _ in range(count)) if line]


@pytest.mark.parametrize(
    "others", [("npu", CAMERA), ("npu-small", DIGITS)], ids=["another program", "another overlay"]
)
def test_two_processes_take_turns(
    service: Service, root: Path, tmp_path: Path, others: tuple[str, Path]
) -> None:
    copy_overlay("npu-small", root)
    with ExitStack() as stack:
        first = stack.enter_context(client(root, tmp_path, "npu", DIGITS, 200))
        second = stack.enter_context(client(root, tmp_path, *others, 200))
        status = ask_status()
        assert sorted(status.clients) == sorted((first.pid, second.pid))
        assert status.overlay in ("npu", others[0])
        begin(first, second)
        taken = lines(first, 200), lines(second, 200)
        assert [len(each) for each in taken] == [200, 200]
        assert min(int(each[-1]) for each in taken) > 20
        assert first.wait(30) == second.wait(30) == 0
    wait_until("the FPGA", lambda: not ask_status().clients)


def test_a_process_that_is_killed_leaves_the_turn_to_others(
    service: Service, root: Path, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(client(root, tmp_path, "npu", DIGITS, 100_000))
        second = stack.enter_context(client(root, tmp_path, "npu", CAMERA, 200))
        begin(first, second)
        lines(first, 5)
        lines(second, 5)
        first.kill()
        assert len(lines(second, 195)) == 195
        assert second.wait(30) == 0


@pytest.mark.parametrize("number", [None, signal.SIGSTOP], ids=["sleeps", "is stopped"])
def test_a_process_that_keeps_the_turn_loses_it(
    service: Service, root: Path, tmp_path: Path, number: signal.Signals | None
) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(
            client(root, tmp_path, "npu", DIGITS, *((10, 5) if number is None else (100_000,)))
        )
        begin(first)
        lines(first, 5)
        if number is not None:
            first.send_signal(number)
        second = stack.enter_context(client(root, tmp_path, "npu", CAMERA, 50))
        begin(second)
        assert len(lines(second, 50)) == 50
        assert second.wait(30) == 0
        assert ask_status().clients == (first.pid,)
        assert service.process.poll() is None
