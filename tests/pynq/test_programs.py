"""Compiled models through PYNQ, with and without overlaid-fpga.service between them and the driver."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.devices.fpga_service import server
from agent.devices.fpga_service.server import Policy, Server, listen
from agent.devices.fpga_service.wire import SOCKET_VARIABLE
from agent.devices.program import FunctionalEngine
from agent.devices.pynq_transport import open_transport
from agent.errors import RuntimeUnavailable
from agent.hal import OverlayTransport
from agent.overlay.compiler import compile_model
from agent.overlay.driver import Driver, LoadedProgram
from agent.overlay.execute import execute
from agent.overlay.program import Part, Program
from agent.overlay.regions import Arrays
from agent.overlay.spec import load_spec
from tests.pynq.board import Board
from tests.pynq.conftest import QUIET, make_release
from tests.pynq.handoff import Design
from tests.unit.devices.fpga_lending import short_folder

pytestmark = QUIET
MODEL = Path(__file__).parents[2] / "models" / "digits" / "digits-int8.onnx"


@pytest.fixture
def lent(
    tmp_path: Path, board: Board, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., OverlayTransport]]:
    """The transport ``remote`` to a service in this process that has the board."""
    from agent.devices import remote_transport

    monkeypatch.setattr(server, "LOOK_S", 0.02)
    stop = threading.Event()
    with short_folder() as folder, listen(folder / "socket") as listening:
        monkeypatch.setenv(SOCKET_VARIABLE, str(folder / "socket"))
        policy = Policy(os.getuid(), os.getgid(), (tmp_path,))
        thread = threading.Thread(target=Server(listening, policy, open_transport).run, args=(stop,))
        thread.start()
        yield remote_transport.open_transport
        stop.set()
        thread.join()


def no_part(part: Part, inputs: Arrays) -> Arrays:
    raise AssertionError("all of it runs on the overlay")


def compare(loaded: LoadedProgram, golden: FunctionalEngine, seed: int) -> None:
    """The bytes of the functional executor, on a random input."""
    program = loaded.program
    (source,) = program.inputs
    inputs = {source.name: np.random.default_rng(seed).random(source.concrete(), np.float32)}
    got = execute(program, inputs, lambda step, given: loaded.run(step, given).outputs, no_part)
    wanted = execute(program, inputs, golden.run, no_part)
    assert got.keys() == wanted.keys()
    for name in got:
        np.testing.assert_array_equal(got[name], wanted[name])


def check(transport: OverlayTransport, program: Program) -> None:
    """It answers two inputs as it must."""
    driver = Driver(transport, load_spec(program.overlay))
    loaded, golden = driver.load(program), FunctionalEngine(program)
    for seed in range(2):
        compare(loaded, golden, seed)
    driver.close()


@pytest.mark.parametrize("overlay", ["npu", "npu-small"])
def test_a_compiled_model(board: Board, tmp_path: Path, overlay: str) -> None:
    folder = make_release(tmp_path / overlay, Design(overlay))
    check(open_transport(folder), compile_model(MODEL, load_spec(overlay)))


def test_a_compiled_model_through_the_service(
    lent: Callable[..., OverlayTransport], board: Board, tmp_path: Path
) -> None:
    for overlay in ("npu", "npu-small", "npu"):  # each swap is another client
        folder = make_release(tmp_path / overlay, Design(overlay))
        check(lent(folder), compile_model(MODEL, load_spec(overlay)))


def test_two_clients_with_overlays_of_their_own(
    lent: Callable[..., OverlayTransport], board: Board, tmp_path: Path
) -> None:
    """Each keeps its buffers while the other one's bitstream is loaded."""
    runs = []
    for overlay in ("npu", "npu-small"):
        spec = load_spec(overlay)
        program = compile_model(MODEL, spec)
        driver = Driver(lent(make_release(tmp_path / overlay, Design(overlay))), spec)
        runs.append((driver, driver.load(program), FunctionalEngine(program)))
    for seed in range(3):
        for _, loaded, golden in runs:
            compare(loaded, golden, seed)
    for driver, _, _ in runs:
        driver.close()


def test_the_service_without_a_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.devices import remote_transport

    folder = make_release(tmp_path / "npu", Design("npu"))
    with short_folder() as place:
        monkeypatch.setenv(SOCKET_VARIABLE, str(place / "s"))
        command = [sys.executable, "-m", "agent.devices.fpga_service", "--allow", str(tmp_path)]
        command += ["--user", os.environ.get("USER") or "root"]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as service:
            try:
                for _ in range(600):
                    if (place / "s").exists():
                        break
                    assert service.poll() is None
                    threading.Event().wait(0.05)
                with pytest.raises(RuntimeUnavailable, match="PYNQ finds no FPGA: No Devices Found"):
                    remote_transport.open_transport(folder)
            finally:
                service.terminate()
                service.communicate(timeout=30)
        assert service.returncode == 0
