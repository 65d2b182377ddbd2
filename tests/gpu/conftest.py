"""Intel's OpenCL, and no other, for every test here and the processes that they start. Without it they fail."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.devices.opencl.platforms import ClDevice, best_cpu, find_devices
from tests.gpu.intel import intel_vendors


@pytest.fixture(scope="session", autouse=True)
def vendors() -> Iterator[None]:
    """Before anything asks for OpenCL: the loader reads it once."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OCL_ICD_VENDORS", intel_vendors(Path(folder)))
        yield


@pytest.fixture(scope="session", params=["cpu", "gpu"])
def device(request: pytest.FixtureRequest, vendors: None) -> ClDevice:
    """Intel's, as what it is, and in the part of a GPU, whose kernels use its dot products."""
    devices, problems = find_devices()
    found = best_cpu(devices)
    assert found is not None, problems
    assert "Intel" in found.platform and found.dot
    return replace(found, kind=request.param)
