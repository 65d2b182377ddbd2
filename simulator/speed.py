"""How long a run takes at full clock: on an overlay what its cycle model says, elsewhere the roofline (Williams,
Waterman, Patterson 2009); plus a fixed overhead."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from agent.errors import ModelLoadError
from simulator.profile import BoardProfile, Device, Precision

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


@dataclass(frozen=True, slots=True)
class RunTime:
    """A run of ``samples`` samples on a device, in seconds at full clock.

    ``once_s`` and for each sample ``each_s`` on the device itself; of a program on an FPGA, ``before_s`` and
    ``after_s`` for each sample on the board's CPU (device ``cpu``), which works on the next sample and the last one
    while the FPGA works on one. ``waits``: that is CPU segments, which wait for the CPU as other models' runs do, and
    not packing alone, some microseconds of a process that slept: the kernel lets those go first.
    """

    once_s: float
    each_s: float
    samples: int = 1
    before_s: float = 0.0
    after_s: float = 0.0
    cpu: int | None = None
    waits: bool = False

    @property
    def seconds(self) -> float:
        """From begin to end, when nobody else is on the board."""
        return self.once_s + overlapped_s(self.each_s, self.before_s, self.after_s, self.samples)


def overlapped_s(each_s: float, before_s: float, after_s: float, samples: int) -> float:
    """How long samples take of which each needs the CPU, then the FPGA, then the CPU, as ``agent.overlay.overlap`` runs
    them: while the FPGA works on one, the one before is unpacked and the next one packed."""
    if samples == 1:
        return before_s + each_s + after_s
    middle_s = (samples - 2) * max(each_s, before_s + after_s)
    return before_s + max(each_s, before_s) + middle_s + max(each_s, after_s) + after_s


def run_time(profile: BoardProfile, device: int, work: Work, batch: int = 1) -> RunTime:
    """Of a model on one of the board's devices. ModelLoadError when the device computes in no such precision."""
    found = _run_time(profile.devices[device], work, batch, profile.cpu)
    if found.cpu is None or profile.cpu is None:
        return found
    return replace(found, cpu=profile.devices.index(profile.cpu))


def run_seconds(device: Device, work: Work, batch: int = 1, cpu: Device | None = None) -> float:
    """overhead + batch x max(MACs / peak, bytes / bandwidth); ModelLoadError when the device computes in no such
    precision (a model without MACs fits everywhere).

    A program on its overlay takes overhead + the overlay's time for each sample, and what it leaves to ``cpu``.
    """
    return _run_time(device, work, batch, cpu).seconds


def _run_time(device: Device, work: Work, batch: int, cpu: Device | None) -> RunTime:
    if device.kind != "fpga" or work.overlay is None:
        once_s, each_s = _roofline(device, work)
        return RunTime(once_s, each_s * batch)
    # The driver's work is done for each sample, and the FPGA waits for it.
    each_s = device.overhead_us / 1e6 + work.overlay_s
    if cpu is None:
        return RunTime(0.0, each_s, batch)
    before_s, after_s = (_copy_s(cpu, nbytes) for nbytes in (work.packed_bytes, work.unpacked_bytes))
    after_s += sum(_roofline(cpu, work.beside)) if work.beside is not None else 0.0
    if not before_s + after_s:
        return RunTime(0.0, each_s, batch)
    return RunTime(0.0, each_s, batch, before_s, after_s, 0, work.beside is not None)


def _copy_s(cpu: Device, nbytes: int) -> float:
    return nbytes / (cpu.bandwidth_gb_s * 1e9) if cpu.bandwidth_gb_s else 0.0


def _roofline(device: Device, work: Work) -> tuple[float, float]:
    """Seconds once a run and for each sample."""
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
    return device.overhead_us / 1e6 * calls, busy_s
