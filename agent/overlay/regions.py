"""The memory of a segment: its regions at the overlay's side, its tensors at this one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from agent.hal import Buffer, OverlayTransport
from agent.overlay.chain import Chain
from agent.overlay.packing import InputRegion, unpack
from agent.overlay.program import Segment

Arrays = Mapping[str, NDArray[Any]]


class SegmentMemory:
    """The regions of one segment, for as long as its program is loaded."""

    def __init__(
        self, segment: Segment, chains: tuple[Chain | None, Chain], transport: OverlayTransport, lanes: int
    ) -> None:
        """DeviceError when there is no memory left."""
        self.segment = segment
        self.resident, self.chain = chains
        self._lanes = lanes
        self._inputs = InputRegion(segment.inputs, segment.input_bytes, lanes)
        self.regions: list[Buffer | None] = []
        sizes = (len(segment.data), segment.input_bytes, segment.output_bytes, segment.scratch_bytes)
        try:
            for nbytes in sizes:
                self.regions.append(transport.allocate(nbytes) if nbytes else None)
            self._region(0).write(0, segment.data)
        except BaseException:
            self.close()
            raise

    def write_inputs(self, tensors: Arrays) -> None:
        """TensorError when one does not fit."""
        self._region(1).write(0, self._inputs.fill(tensors))

    def read_outputs(self) -> dict[str, NDArray[Any]]:
        """New arrays."""
        data = self._region(2).read(0, self.segment.output_bytes)
        return {binding.tensor.name: unpack(binding, data, self._lanes) for binding in self.segment.outputs}

    def close(self) -> None:
        """Free the regions."""
        while self.regions:
            buffer = self.regions.pop()
            if buffer is not None:
                buffer.close()

    def _region(self, number: int) -> Buffer:
        buffer = self.regions[number]
        assert buffer is not None  # a segment has descriptors, inputs and outputs
        return buffer
