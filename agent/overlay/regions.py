"""The memory of a segment: its regions at the overlay's side, its tensors at this one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from agent.hal import Buffer, OverlayTransport
from agent.overlay.chain import Chain
from agent.overlay.packing import InputRegion, unpack
from agent.overlay.program import Segment

Arrays = Mapping[str, NDArray[Any]]


@dataclass(slots=True)
class HostTimes:
    """Wall seconds of this side: packing and unpacking a segment's tensors, and copying them there and back."""

    pack_s: float = 0.0
    transfer_s: float = 0.0


class SegmentMemory:
    """The regions of one segment, for as long as its program is loaded.

    Each of its ``banks`` holds the inputs and outputs of one inference: while the overlay works on one of them, the
    other one is filled or read.
    """

    def __init__(
        self, segment: Segment, chains: tuple[Chain | None, Chain], transport: OverlayTransport, lanes: int,
        banks: int = 1,
    ) -> None:  # fmt: skip
        """DeviceError when there is no memory left."""
        self.segment = segment
        self.resident, self.chain = chains
        self._lanes = lanes
        self._inputs = InputRegion(segment.inputs, segment.input_bytes, lanes)
        self._buffers: list[Buffer] = []

        def take(nbytes: int) -> Buffer | None:
            if not nbytes:
                return None
            self._buffers.append(transport.allocate(nbytes))
            return self._buffers[-1]

        try:
            program = take(len(segment.data))
            its = [(take(segment.input_bytes), take(segment.output_bytes)) for _ in range(banks)]
            scratch = take(segment.scratch_bytes)
            self._banks = [(program, inputs, outputs, scratch) for inputs, outputs in its]
            self._buffer(0, 0).write(0, segment.data)
        except BaseException:
            self.close()
            raise

    @property
    def loaded(self) -> bool:
        """Whether it has its memory."""
        return bool(self._buffers)

    def regions(self, bank: int) -> tuple[Buffer | None, ...]:
        """The four regions of an inference; None where the segment has none."""
        return self._banks[bank]

    def write_inputs(self, tensors: Arrays, bank: int = 0) -> HostTimes:
        """TensorError when one does not fit."""
        started = time.perf_counter()
        packed = self._inputs.fill(tensors)
        filled = time.perf_counter()
        self._buffer(1, bank).write(0, packed)
        return HostTimes(filled - started, time.perf_counter() - filled)

    def read_outputs(self, bank: int = 0) -> tuple[dict[str, NDArray[Any]], HostTimes]:
        """New arrays."""
        started = time.perf_counter()
        data = self._buffer(2, bank).read(0, self.segment.output_bytes)
        there = time.perf_counter()
        outputs = {
            binding.tensor.name: unpack(binding, data, self._lanes) for binding in self.segment.outputs
        }
        return outputs, HostTimes(time.perf_counter() - there, there - started)

    def close(self) -> None:
        """Free the regions."""
        while self._buffers:
            self._buffers.pop().close()

    def _buffer(self, number: int, bank: int) -> Buffer:
        buffer = self._banks[bank][number]
        assert buffer is not None  # a segment has descriptors, inputs and outputs
        return buffer
