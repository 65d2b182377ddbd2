"""A queue with buffers of its own, on which the segments of a program run one batch after another.

Two lanes overlap: while one computes, the other's inputs and outputs travel, and the host packs and unpacks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np
import pyopencl as cl
from numpy.typing import NDArray

from agent.devices.opencl.plan import Argument, Constant, Crossing, SegmentPlan, Slot
from agent.devices.opencl.times import DOWNLOAD, UPLOAD, label, seconds
from agent.overlay.graph import Tensor
from agent.overlay.packing import check_fits
from agent.overlay.program import Segment

Arrays = Mapping[str, NDArray[Any]]
Size = tuple[int, int, int]
Label = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A segment whose constants are on the device."""

    segment: Segment
    plan: SegmentPlan
    constants: tuple[cl.Buffer, ...]

    @property
    def labels(self) -> list[Label]:
        """Of each launch."""
        return [label(launch, self.segment.layers) for launch in self.plan.launches]


@dataclass(frozen=True, slots=True)
class _Port:
    """A tensor that crosses: ``host`` is memory that the device reads and writes by itself, a row for a sample."""

    tensor: Tensor
    nbytes: int
    host: NDArray[np.uint8]
    samples: NDArray[Any]  # the same, as the source model holds the tensor
    device: cl.Buffer


@dataclass(frozen=True, slots=True)
class _Chain:
    """A segment ready to be enqueued."""

    inputs: tuple[_Port, ...]
    outputs: tuple[_Port, ...]
    launches: tuple[tuple[cl.Kernel, Size, Size | None], ...]
    labels: list[Label]


@dataclass(slots=True)
class _Flight:
    """What is on the device."""

    chain: _Chain
    samples: int
    events: list[
        cl.Event
    ]  # of transfers, which wait for their end when they are forgotten; of kernels in a profile


@dataclass(slots=True)
class Times:
    """Of what a lane ran: spans (first begin, last end) in nanoseconds of the device's clock, seconds by layer."""

    spans: list[tuple[int, int]] = field(default_factory=list)
    layers: list[tuple[Label, float]] = field(default_factory=list)


class Lane:
    """See the module. ``timed``: keep spans; ``profile``: and seconds by layer. Raises pyopencl's errors."""

    def __init__(
        self,
        context: cl.Context,
        device: cl.Device,
        kernels: cl.Program,
        loaded: Sequence[Loaded],
        *,
        timed: bool,
        profile: bool,
    ) -> None:
        self._context, self._kernels, self._loaded = context, kernels, loaded
        self._profile, self._timed = profile, timed or profile
        properties = cl.command_queue_properties.PROFILING_ENABLE if self._timed else 0
        # Named, as some drivers take the whole device for a context's when it was made of a part of it.
        self._queue = cl.CommandQueue(context, device, properties)
        self._capacity = 0
        self._slots: list[cl.Buffer] = []  # a kernel's arguments do not keep them
        self._chains: list[_Chain] = []
        self._pinned: list[tuple[cl.Buffer, Any]] = []  # and how they are mapped
        self._flight: _Flight | None = None
        self.times = Times()

    def reserve(self, samples: int) -> None:
        """Buffers for batches of so many. None may be under way."""
        if samples <= self._capacity:
            return
        self._release()
        flags = cl.mem_flags.READ_WRITE
        sizes = slot_sizes([each.plan for each in self._loaded])
        slots = [cl.Buffer(self._context, flags, max(samples * nbytes, 1)) for nbytes in sizes]
        for slot in slots:  # many drivers allocate when a buffer is first used: now, not in a run
            cl.enqueue_fill_buffer(self._queue, slot, np.uint8(0), 0, slot.size)
        self._slots = slots
        self._chains = [self._chain(each, slots, samples) for each in self._loaded]
        self._queue.finish()
        self._capacity = samples

    def start(self, number: int, given: Sequence[Arrays]) -> None:
        """Enqueue segment ``number`` on samples, at most as many as are reserved; none may be under way.

        TensorError when a sample does not fit.
        """
        chain, queue, count = self._chains[number], self._queue, len(given)
        events: list[cl.Event] = []
        for port in chain.inputs:
            for row, tensors in enumerate(given):
                sample = tensors[port.tensor.name]
                check_fits(port.tensor, sample)
                port.samples[row] = sample
            host = port.host[: count * port.nbytes]
            events.append(cl.enqueue_copy(queue, port.device, host, is_blocking=False))
        enqueue = cl.enqueue_nd_range_kernel
        for kernel, (x, y, z), local in chain.launches:
            event = enqueue(queue, kernel, (x, y, z * count), local)
            if self._profile:
                events.append(event)
        for port in chain.outputs:
            host = port.host[: count * port.nbytes]
            events.append(cl.enqueue_copy(queue, host, port.device, is_blocking=False))
        queue.flush()
        self._flight = _Flight(chain, count, events)

    def finish(self) -> list[dict[str, NDArray[Any]]]:
        """The outputs of what was started, by sample, once it has ended."""
        flight, self._flight = self._flight, None
        assert flight is not None
        first, last = flight.events[0], flight.events[-1]
        last.wait()
        if self._timed:
            self.times.spans.append((first.profile.start, last.profile.end))
        if self._profile:
            chain = flight.chain
            labels = [*[UPLOAD] * len(chain.inputs), *chain.labels, *[DOWNLOAD] * len(chain.outputs)]
            self.times.layers += zip(labels, map(seconds, flight.events), strict=True)
        found = [(port.tensor.name, port.samples[: flight.samples].copy()) for port in flight.chain.outputs]
        return [{name: rows[row, ...] for name, rows in found} for row in range(flight.samples)]

    def drain(self) -> None:
        """Wait for what is under way and forget it."""
        self._flight = None
        with contextlib.suppress(cl.Error):
            self._queue.finish()

    def close(self) -> None:
        """Give the memory back."""
        self.drain()
        with contextlib.suppress(cl.Error):
            self._release()

    def _release(self) -> None:
        self._capacity, self._chains, self._slots = 0, [], []
        pinned, self._pinned = self._pinned, []
        for _, mapped in pinned:
            mapped.release(self._queue)
        self._queue.finish()

    def _chain(self, loaded: Loaded, slots: Sequence[cl.Buffer], samples: int) -> _Chain:
        plan, segment = loaded.plan, loaded.segment
        tensors = {b.tensor.name: b.tensor for b in (*segment.inputs, *segment.outputs)}
        inputs, outputs = (
            tuple(self._port(each, tensors[each.name], slots[each.slot], samples) for each in side)
            for side in (plan.inputs, plan.outputs)
        )
        launches = []
        for launch in plan.launches:
            kernel = cl.Kernel(self._kernels, launch.kernel)  # one for each launch: arguments stay set
            kernel.set_args(*(_argument(each, slots, loaded.constants) for each in launch.arguments))
            launches.append((kernel, launch.size, launch.local))
        return _Chain(inputs, outputs, tuple(launches), loaded.labels)

    def _port(self, crossing: Crossing, tensor: Tensor, device: cl.Buffer, samples: int) -> _Port:
        nbytes = crossing.nbytes
        flags = cl.mem_flags.READ_WRITE | cl.mem_flags.ALLOC_HOST_PTR
        buffer = cl.Buffer(self._context, flags, samples * nbytes)
        access = cl.map_flags.READ | cl.map_flags.WRITE
        host, _ = cl.enqueue_map_buffer(
            self._queue, buffer, access, 0, (samples * nbytes,), np.uint8, is_blocking=True
        )
        self._pinned.append((buffer, host.base))
        dtype = np.int8 if tensor.dtype == "INT8" else np.uint8
        return _Port(tensor, nbytes, host, host.view(dtype).reshape(samples, *tensor.shape), device)


def slot_sizes(plans: Sequence[SegmentPlan]) -> list[int]:
    """Bytes of the buffers that segments share, as they run one after the other, for one sample."""
    return [max(each) for each in zip_longest(*(plan.slots for plan in plans), fillvalue=0)]


def _argument(value: Argument, slots: Sequence[cl.Buffer], constants: Sequence[cl.Buffer]) -> Any:
    if isinstance(value, Slot):
        return slots[value.index]
    return constants[value.index] if isinstance(value, Constant) else np.int32(value)
