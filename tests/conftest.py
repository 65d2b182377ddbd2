"""Property-based tests judge values, never wall time: another test may have the processor just then."""

from __future__ import annotations

import contextlib
import os

import pytest
from hypothesis import HealthCheck, settings

from tests.pocl import pocl_vendors

settings.register_profile("loaded-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("loaded-machine")


@pytest.fixture(scope="session", autouse=True)
def pocl(tmp_path_factory: pytest.TempPathFactory) -> None:
    """OpenCL on this CPU for this process and all that it starts, whatever CPU it is; not for who tests another."""
    if "OVERLAID_OPENCL_DEVICE" in os.environ:
        return
    with contextlib.suppress(FileNotFoundError):  # tests that need it fail by themselves
        os.environ["OCL_ICD_VENDORS"] = pocl_vendors(tmp_path_factory.mktemp("pocl"))
