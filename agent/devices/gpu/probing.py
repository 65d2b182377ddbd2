"""Which GPUs there are and which routes to them work: proved by loading a tiny model, each in a process of its own.

``python -m agent.devices.gpu.probing providers`` and ``… opencl`` list what ONNX Runtime and OpenCL have,
``… ROUTE GPU`` proves one route; see ``agent.devices.proving`` for what they print.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter, ValidationError

from agent.devices.gpu.findings import problems_of
from agent.devices.gpu.gpus import Gpu
from agent.devices.gpu.matching import gpus_of, match
from agent.devices.gpu.memory import gpu_memory_mb
from agent.devices.gpu.routes import ROUTES, routes_to
from agent.devices.gpu.surroundings import look_around
from agent.devices.opencl.platforms import ClDevice
from agent.devices.proving import PROOF_TIMEOUT_S, Outcome, prove_in_processes, tell_outcome
from agent.types import BackendInfo, DeviceInfo

MODULE = "agent.devices.gpu.probing"
LISTS = {"providers": "onnxruntime", "opencl": "pyopencl"}  # what is listed, and by which package


@dataclass(frozen=True, slots=True)
class Offers:
    """What is installed: ``providers`` of ONNX Runtime, as routes are called, and OpenCL's ``devices``. ``failures``:
    of listing them."""

    providers: tuple[str, ...]
    devices: tuple[ClDevice, ...]
    failures: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Probed:
    """GPUs on which something runs, and why others, or other routes, do not."""

    devices: tuple[DeviceInfo, ...] = ()
    problems: tuple[str, ...] = ()


def opencls_gpus() -> tuple[Gpu, ...]:
    """Those that OpenCL offers."""
    return gpus_of(list_offers(("opencl",), PROOF_TIMEOUT_S / 2).devices)


def probe_gpus(gpus: Sequence[Gpu], timeout_s: float = PROOF_TIMEOUT_S) -> Probed:
    """Try every route to every GPU, all at the same time; nothing is started without a GPU."""
    if not gpus:
        return Probed()
    deadline = time.monotonic() + timeout_s
    offers = list_offers(tuple(LISTS), timeout_s / 2)  # the rest is for the proofs, whatever hangs here
    wanted = {
        (gpu.id, name): (MODULE, name, json.dumps(asdict(gpu)))
        for gpu in gpus
        for name, route in routes_to(gpu).items()
        if (name in offers.providers if route.provider else route.installed)
    }
    outcomes = prove_in_processes(
        {f"{gpu} {name}": command for (gpu, name), command in wanted.items()},
        max(deadline - time.monotonic(), 0.0),
    )
    devices: list[DeviceInfo] = []
    problems: list[str] = []
    for gpu in gpus:
        proved = {name: outcomes[f"{gpu.id} {name}"] for id, name in wanted if id == gpu.id}
        info = describe(gpu, proved, offers.devices)
        failures = {name: each.problem for name, each in proved.items() if each.problem}
        problems += problems_of(gpu, look_around(gpu), {**offers.failures, **failures}, bool(info.backends))
        devices += [info] if info.backends else []
    return Probed(tuple(devices), tuple(problems))


def describe(gpu: Gpu, proved: Mapping[str, Outcome], offered: Sequence[ClDevice]) -> DeviceInfo:
    """The GPU with the routes that were proved; OpenCL knows its name and memory where the kernel does not."""
    device = match(gpu, offered)
    name = device.name if device is not None else gpu.name
    backends = tuple(
        BackendInfo(route, outcome.version, ROUTES[route].formats)
        for route, outcome in proved.items()
        if outcome.version and not outcome.problem
    )
    note = f"software: {name}, on the CPU's cores" if gpu.software else ""
    return DeviceInfo(gpu.id, "gpu", name, backends, memory_mb=gpu_memory_mb(gpu, device), note=note)


def list_offers(what: Sequence[str], timeout_s: float) -> Offers:
    """Ask ONNX Runtime ("providers") and OpenCL ("opencl"), where they are installed, in processes of their own."""
    commands = {name: (MODULE, name) for name in what if _is_installed(LISTS[name])}
    told = prove_in_processes(commands, timeout_s)
    failures = {LISTS[name]: outcome.problem for name, outcome in told.items() if outcome.problem}
    try:
        providers = TypeAdapter(tuple[str, ...]).validate_json(_answer(told, "providers"))
        devices = TypeAdapter(tuple[ClDevice, ...]).validate_json(_answer(told, "opencl"))
    except ValidationError:
        return Offers((), (), failures)
    return Offers(providers, devices, failures)


def _answer(told: Mapping[str, Outcome], name: str) -> str:
    return told[name].version or "[]" if name in told else "[]"


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _list_providers() -> str:
    from agent.devices.gpu.providers import installed_providers

    return json.dumps(installed_providers())


def _list_opencl() -> str:
    from agent.devices.opencl.platforms import find_devices

    return json.dumps([asdict(device) for device in find_devices()[0]])


def main(what: str, gpu: str = "") -> None:
    """Print what came of it."""
    if gpu:
        tell_outcome(lambda: ROUTES[what].prove(TypeAdapter(Gpu).validate_json(gpu)))
    else:
        tell_outcome({"providers": _list_providers, "opencl": _list_opencl}[what])


if __name__ == "__main__":
    main(*sys.argv[1:])
