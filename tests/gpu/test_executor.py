"""The OpenCL executor on Intel's OpenCL: test nets, random layers and nets, with the bytes of the golden model."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.devices.opencl.engine import OpenClEngine
from agent.devices.opencl.platforms import ClDevice
from agent.devices.opencl.session import prove
from agent.overlay.compiler import compile_graph
from agent.overlay.programfile import read_program
from agent.overlay.spec import load_spec
from tests.contract.nets import MANY, NETS, ROOT, TINY, compare
from tests.rtl.layers import Sample
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


@pytest.mark.parametrize("make", MANY)
def test_random(
    make: Callable[[int], Sample], device: ClDevice, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Few by the CPU's kernels, which PoCL runs all with."""
    for seed in range(MANY[make] if device.kind == "gpu" else MANY[make] // 6):
        program = compile_graph(make(seed).graph, load_spec("npu"))
        engine = OpenClEngine(program, device, 1, tmp_path_factory.getbasetemp())
        compare(program, engine)
        engine.close()
