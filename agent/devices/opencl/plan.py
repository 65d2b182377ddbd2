"""What a segment needs on an OpenCL device: buffers, and kernels in order. Pure: no device is touched."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Traits:
    """What of a device the plan and the kernels depend on. ``kind``: cpu, gpu or accelerator (an FPGA card).

    ``dot``: cl_khr_integer_dot_product, packed int8 (OpenCL extension specification, section of that name); the kernels
    for CPUs do without, as drivers for CPUs take a word at a time for it.
    ``units``: compute units; ``group``: work-items that a work-group may have.
    """

    kind: str
    dot: bool
    units: int
    group: int


@dataclass(frozen=True, slots=True)
class Slot:
    """A planned buffer of activations as a kernel's argument; several tensors that do not live at once share one."""

    index: int


@dataclass(frozen=True, slots=True)
class Constant:
    """Weights, biases or scales as a kernel's argument."""

    index: int


Argument = Slot | Constant | int  # an int is passed as a 32-bit signed integer


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel. ``size``: work-items of one sample; the third dimension is multiplied by the samples of a batch.

    ``local``: work-group, whose third dimension is 1. ``layer``: index into the segment's layers; None for the
    kernels that pack inputs and unpack outputs.
    """

    kernel: str
    arguments: tuple[Argument, ...]
    size: tuple[int, int, int]
    local: tuple[int, int, int]
    layer: int | None


@dataclass(frozen=True, slots=True)
class Crossing:
    """A tensor between host and device: its bytes as the source model holds them, in slot ``slot``, which no other
    tensor shares: one batch's can be filled or read while the kernels work on another's."""

    name: str
    slot: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class SegmentPlan:
    """``slots``: bytes of each activation buffer for one sample; ``constants``: contents, uploaded once."""

    slots: tuple[int, ...]
    constants: tuple[bytes, ...]
    inputs: tuple[Crossing, ...]
    outputs: tuple[Crossing, ...]
    launches: tuple[Launch, ...]

    def largest(self, batch: int) -> int:
        """Bytes of the largest buffer."""
        return max([*map(len, self.constants), *(batch * nbytes for nbytes in self.slots)], default=0)
