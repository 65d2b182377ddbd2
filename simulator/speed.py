"""How long a run takes at full clock: the roofline (Williams, Waterman, Patterson 2009) plus a fixed overhead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.errors import ModelLoadError
from simulator.profile import Device, Precision

if TYPE_CHECKING:
    from simulator.work import Work

# Where a device does not compute in a precision, the work is done in the next one up.
NEXT: dict[str, tuple[Precision, ...]] = {
    "int8": ("int8", "fp16", "fp32"),
    "fp16": ("fp16", "fp32"),
    "fp32": ("fp32",),
}


def run_seconds(device: Device, work: Work, batch: int = 1) -> float:
    """overhead + batch x max(MACs / peak, bytes / bandwidth); ModelLoadError when the device computes in no such
    precision (a model without MACs fits everywhere)."""
    peak = next((device.peak[p] for p in NEXT[work.precision] if p in device.peak), None)
    if peak is None and work.macs:
        computes = ", ".join(device.peak)
        raise ModelLoadError(
            f"{device.id} computes in {computes}; the model is {work.precision}: quantise it and pack a new version"
        )
    busy_s = max(work.macs / ((peak or 1.0) * 1e9), work.nbytes / (device.bandwidth_gb_s * 1e9))
    return device.overhead_us / 1e6 + batch * busy_s
