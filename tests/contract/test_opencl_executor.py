"""The OpenCL executor (on PoCL) gives the bytes of the golden model: all test nets, random layers and small nets.

With OVERLAID_OPENCL_DEVICE (part of a device's name, or of its platform's) on that one: for machines with a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent.devices.opencl.engine import OpenClEngine
from agent.devices.opencl.platforms import ClDevice, best_cpu, find_devices
from agent.overlay.compiler import compile_graph
from agent.overlay.spec import load_spec
from tests.contract.nets import MANY, NETS, TINY, compare
from tests.rtl.layers import Sample
from tests.system import mlperf

NAMED = os.environ.get("OVERLAID_OPENCL_DEVICE")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("opencl")


@pytest.fixture(scope="module", params=["cpu", "gpu"] if NAMED is None else [NAMED])
def device(request: pytest.FixtureRequest) -> ClDevice:
    """As what it is, and in the part of a GPU, which has other kernels; or the device that was named."""
    devices, problems = find_devices()
    if NAMED is not None:
        return next(device for device in devices if NAMED.lower() in device.label.lower())
    found = best_cpu(devices)
    assert found is not None, problems
    return replace(found, kind=request.param)


@pytest.mark.parametrize("name", NETS)
def test_nets(name: str, device: ClDevice, folder: Path) -> None:
    if name in TINY and mlperf.reason_to_skip():
        pytest.skip(str(mlperf.reason_to_skip()))
    program = NETS[name]()
    engine = OpenClEngine(program, device, 1, folder)
    compare(program, engine)
    engine.close()


@pytest.mark.parametrize("make", MANY)
def test_random(make: Callable[[int], Sample], device: ClDevice, folder: Path) -> None:
    for seed in range(MANY[make]):
        program = compile_graph(make(seed).graph, load_spec("npu"))
        engine = OpenClEngine(program, device, 1, folder)
        compare(program, engine)
        engine.close()
