from __future__ import annotations

from pathlib import Path

import pytest

from agent.devices.gpu import opencl_gpu
from agent.devices.gpu.gpus import Gpu
from agent.devices.opencl.platforms import ClDevice, find_devices
from agent.errors import DeviceLost
from agent.hal import ModelFile

MALI = Gpu("gpu", "Arm Mali-G610", "arm", driver="mali")
SOFTWARE = Gpu("gpu", "software renderer", software=True)


def test_the_self_test_proves_a_gpu() -> None:
    assert opencl_gpu.prove(SOFTWARE).startswith("PoCL ")


@pytest.mark.parametrize(
    ("problems", "why"),
    [
        ([], "it offers only .*Portable Computing Language"),
        (["libmali.so.1 is broken"], "libmali.so.1 is broken"),
    ],
)
def test_a_gpu_that_opencl_does_not_offer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problems: list[str], why: str
) -> None:
    devices: list[ClDevice] = find_devices()[0]
    monkeypatch.setattr(opencl_gpu, "find_devices", lambda: (devices, problems))
    with pytest.raises(
        DeviceLost, match=f"OpenCL does not offer Arm Mali-G610: {why}.*install the GPU's OpenCL driver"
    ):
        opencl_gpu.open_session(ModelFile(tmp_path / "m", "npu", (), ()), MALI)
