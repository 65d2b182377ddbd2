"""The kernels' source, and how it is built. One build on a device runs every program."""

from __future__ import annotations

from importlib.resources import files

from agent.devices.opencl.plan import Traits

PARTS = ("common", "move", "conv_cpu", "conv_gpu", "windows", "add")  # in this order


def kernel_source() -> str:
    """OpenCL C of every kernel that a plan launches."""
    folder = files("agent.devices.opencl") / "kernels"
    return "\n".join((folder / f"{part}.cl").read_text(encoding="utf-8") for part in PARTS)


def build_options(traits: Traits) -> tuple[str, ...]:
    """Options of clBuildProgram. None that lets a compiler change what floats round to."""
    return (
        f"-cl-std=CL{'3.0' if traits.dot else '1.2'}",
        f"-DOVERLAID_CPU={int(traits.kind == 'cpu')}",
        f"-DOVERLAID_DOT={int(traits.dot)}",
    )
