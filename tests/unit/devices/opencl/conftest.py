"""PoCL, which runs OpenCL on this CPU."""

from __future__ import annotations

from typing import Any

import pytest

from agent.devices.opencl.platforms import ClDevice, find_devices, handle


@pytest.fixture(scope="session")
def cpu() -> ClDevice:
    """Not before the tests run: drivers are looked for once in a process."""
    return next(device for device in find_devices()[0] if device.runtime.startswith("PoCL "))


@pytest.fixture(scope="session")
def context(cpu: ClDevice) -> Any:
    """A pyopencl.Context on it."""
    import pyopencl

    return pyopencl.Context([handle(cpu)])
