"""How long a run takes at full clock: on an overlay what its cycle model says, elsewhere the roofline (Williams,
Waterman, Patterson 2009); plus a fixed overhead."""

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
# A layer in numpy takes some 80 us on a desktop core where a run of a runtime's session takes 20 us beside its layers.
LAYER_CALLS = 4


def run_seconds(device: Device, work: Work, batch: int = 1, cpu: Device | None = None) -> float:
    """overhead + batch x max(MACs / peak, bytes / bandwidth); ModelLoadError when the device computes in no such
    precision (a model without MACs fits everywhere).

    A program on its overlay takes overhead + batch x the overlay's time; its CPU segments run on ``cpu``.
    """
    if device.kind == "fpga" and work.overlay is not None:
        beside_s = run_seconds(cpu, work.beside) if cpu is not None and work.beside is not None else 0.0
        return device.overhead_us / 1e6 + batch * (work.overlay_s + beside_s)
    if device.bandwidth_gb_s is None:
        raise ModelLoadError(
            f"{device.id} runs overlay programs only; compile the model: overlaid overlay compile"
        )
    peak = next((device.peak[p] for p in NEXT[work.precision] if p in device.peak), None)
    if peak is None and work.macs:
        computes = ", ".join(device.peak)
        raise ModelLoadError(
            f"{device.id} computes in {computes}; the model is {work.precision}: quantise it and pack a new version"
        )
    calls = 1 + LAYER_CALLS * work.layers
    busy_s = max(work.macs / ((peak or 1.0) * 1e9), work.nbytes / (device.bandwidth_gb_s * 1e9))
    return device.overhead_us / 1e6 * calls + batch * busy_s
