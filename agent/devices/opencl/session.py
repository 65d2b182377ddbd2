"""Overlay programs on this machine's CPU by OpenCL, and the proof that an OpenCL device computes the right bits."""

from __future__ import annotations

import resource
from pathlib import Path

from agent.devices.opencl.engine import OpenClEngine
from agent.devices.opencl.icds import broken_drivers, look
from agent.devices.opencl.platforms import ClDevice, best_cpu, find_devices
from agent.devices.program import ProgramSession, self_test
from agent.devices.proving import FORBIDDEN, forbids_new_code
from agent.errors import KernelBuildFailed, RuntimeUnavailable
from agent.hal import ModelFile

LEAST_MB = 384  # PoCL and Intel's driver take 250 to compile the kernels; PoCL's compiler hangs without


def open_on_cpu(model: ModelFile) -> ProgramSession:
    """A session on the best OpenCL device that is a CPU, on as many of its cores as the model's threads.

    Raises RuntimeUnavailable (none here, and why; too little memory for a driver), and what ``ProgramSession`` and
    ``OpenClEngine`` raise.
    """
    _check_limit()
    devices, problems = find_devices()
    device = best_cpu(devices)
    if device is None:
        why = "; ".join(problems) or "install pocl-opencl-icd, say"
        raise RuntimeUnavailable(f"no OpenCL driver offers this CPU: {why}")
    return ProgramSession(model, lambda program: OpenClEngine(program, device, model.threads, model.cache))


def prove_cpu() -> str:
    """What ``prove`` says of the CPU; "" where no driver offers it, which is no fault of a machine.

    Raises RuntimeUnavailable when there would be one, perhaps, if a driver were not broken.
    """
    device = best_cpu(find_devices()[0])
    if device is not None:
        return prove(device)
    broken = broken_drivers(look())
    if broken:
        raise RuntimeUnavailable("; ".join(broken))
    return ""


def prove(device: ClDevice, binary: Path | None = None) -> str:
    """The runtime and its version ("PoCL 3.0-rc2"), once the device has answered the overlays' self-test.

    ``binary``: of the kernels, for a card that compiles none. Raises KernelBuildFailed, InferenceError (other bits) and
    what else ``OpenClEngine`` raises.
    """
    try:
        self_test(lambda program: OpenClEngine(program, device, 1, binary=binary))
    except KernelBuildFailed as error:
        if forbids_new_code():
            raise KernelBuildFailed(f"{error}; its compiler may need {FORBIDDEN}") from error
        raise
    return device.runtime


def _check_limit() -> None:
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if limit != resource.RLIM_INFINITY and limit >> 20 < LEAST_MB:
        raise RuntimeUnavailable(
            f"an OpenCL driver with its compiler needs {LEAST_MB} MiB, a worker may have {limit >> 20}: raise "
            "serving.worker_memory_mb, or deploy the model for another runtime"
        )
