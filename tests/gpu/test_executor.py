"""The OpenCL executor on Intel's OpenCL: the test nets, with the bytes of the golden model."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from agent.devices.opencl.engine import OpenClEngine
from agent.devices.opencl.platforms import ClDevice
from agent.devices.opencl.session import prove
from agent.overlay.programfile import read_program
from tests.contract.nets import NETS, ROOT, TINY, compare
from tests.system import mlperf

PYTHON = ROOT / ".venv/bin/python"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By name. This environment has no LiteRT, whose schema the compiler needs."""
    folder = tmp_path_factory.mktemp("programs")
    command = [str(PYTHON), "-m", "tests.contract.nets", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)
    return folder


def test_proof(device: ClDevice) -> None:
    assert prove(device) == device.runtime


@pytest.mark.parametrize("name", NETS)
def test_nets(name: str, device: ClDevice, programs: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    if name in TINY and mlperf.reason_to_skip():
        pytest.skip(str(mlperf.reason_to_skip()))
    program = read_program((programs / f"{name}.npu").read_bytes())
    engine = OpenClEngine(program, device, 1, tmp_path_factory.getbasetemp())
    compare(program, engine)
    engine.close()
