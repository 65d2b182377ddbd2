"""The OpenCL devices that ``overlaid overlay run --on opencl`` and ``overlaid overlay kernels`` choose from."""

from __future__ import annotations

from collections.abc import Sequence

from agent.devices.opencl.platforms import ClDevice, best_cpu, find_devices
from agent.errors import RuntimeUnavailable, UsageError

ORDER = ("gpu", "accelerator", "cpu")


def find_device(wanted: str | None) -> ClDevice:
    """The device that ``--device`` names. RuntimeUnavailable with the reasons where there is none; see ``choose``."""
    devices, problems = find_devices()
    if not devices:
        raise RuntimeUnavailable(f"no OpenCL device can run the kernels: {'; '.join(problems)}")
    return choose(devices, wanted)


def choose(devices: Sequence[ClDevice], wanted: str | None) -> ClDevice:
    """By a part of the name, or by the number in the listing; None: a GPU before an accelerator before a CPU.

    Raises UsageError with the listing where that is no device, or several.
    """
    listed = in_order(devices)
    if wanted is None:
        return listed[0]
    if wanted.isascii() and wanted.isdigit():
        if wanted in (numbers := [str(number) for number in range(len(listed))]):
            return listed[numbers.index(wanted)]
        raise UsageError(f"--device {wanted}: there is no such number; {_listing(listed)}")
    found = [device for device in listed if wanted.lower() in device.label.lower()]
    exact = [device for device in found if wanted in (device.name, device.label)]
    if len(found) != 1 and len(exact) != 1:
        what = "several have that in their names" if found else "none has that in its name"
        raise UsageError(f"--device {wanted}: {what}; {_listing(listed)}")
    return (exact or found)[0]


def in_order(devices: Sequence[ClDevice]) -> list[ClDevice]:
    """As they are numbered: by kind, and the best CPU driver before the others."""
    best = best_cpu(devices)
    return sorted(devices, key=lambda each: (ORDER.index(each.kind), each is not best, each.index))


def _listing(listed: Sequence[ClDevice]) -> str:
    names = ", ".join(f"{number}: {device.label}, {device.kind}" for number, device in enumerate(listed))
    return f"there are {names}"
