"""Layers on an OpenCL device, to compare with the golden model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyopencl as cl
from numpy.typing import NDArray

from agent.devices.opencl.lower import plan_segment
from agent.devices.opencl.plan import Constant, Launch, SegmentPlan, Slot, Traits
from agent.devices.opencl.platforms import ClDevice, handle, traits_of
from agent.devices.opencl.source import build_options, kernel_source
from agent.overlay.functional import from_planes, run_layers, to_planes
from agent.overlay.graph import Layer, Tensor
from agent.overlay.program import Binding, Segment

Arrays = Mapping[str, NDArray[Any]]
GUARD_BYTES, GUARD = 4096, 0xA5  # behind every buffer of activations: what no kernel may touch


def segment_of(layers: Sequence[Layer], inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Segment:
    """A segment without anything for an FPGA."""
    given, made = (tuple(Binding(tensor, 0, 0) for tensor in side) for side in (inputs, outputs))
    return Segment(tuple(layers), given, made, b"", None, 0, 0, 0, 0, (1,) * len(layers))


def golden(segment: Segment, inputs: Arrays) -> dict[str, NDArray[Any]]:
    """What the golden model gives."""
    planes = {b.tensor.name: to_planes(b.tensor, inputs[b.tensor.name]) for b in segment.inputs}
    found = run_layers(segment.layers, planes)
    return {b.tensor.name: from_planes(b.tensor, found[b.tensor.name]) for b in segment.outputs}


def compare(bench: Bench, segment: Segment, seed: int, batch: int) -> None:
    """Random samples as one batch, and the least and the greatest bytes, give the golden model's bytes."""
    rng = np.random.default_rng(seed)
    ranges = [(-128, 128), (-128, -127), (127, 128)]
    samples = [
        {
            of.name: from_planes(
                of, rng.integers(*ranges[n % 3], (of.channels, of.height, of.width), np.int8)
            )
            for of in (b.tensor for b in segment.inputs)
        }
        for n in range(batch)
    ]
    for given, found in zip(samples, bench.run(segment, samples), strict=True):
        for name, wanted in golden(segment, given).items():
            np.testing.assert_array_equal(found[name], wanted, err_msg=name)


class Bench:
    """The kernels built on one device, and segments run by them with no more than pyopencl.

    ``kind`` and ``group``: as if it were of another kind, or had other groups of work-items.
    """

    def __init__(
        self, device: ClDevice, threads: int | None = None, kind: str | None = None, group: int | None = None
    ) -> None:
        traits = traits_of(device, threads)
        self.traits: Traits = replace(traits, kind=kind or traits.kind, group=group or traits.group)
        found: Any = handle(device)
        if threads is not None and threads < device.units:
            counts = [cl.device_partition_property.BY_COUNTS, threads, 0]
            found = found.create_sub_devices(counts)[0]
        self.context = cl.Context([found])
        # Of the part: drivers take the whole device for a context's.
        self.queue = cl.CommandQueue(self.context, found, cl.command_queue_properties.PROFILING_ENABLE)
        self.program = cl.Program(self.context, kernel_source()).build(list(build_options(self.traits)))

    def run(self, segment: Segment, samples: Sequence[Arrays]) -> list[dict[str, NDArray[Any]]]:
        """Outputs of each sample, the samples as one batch."""
        return Loaded(self, segment, len(samples)).run(samples)


class Loaded:
    """A segment's buffers and kernels for batches of so many samples."""

    def __init__(self, bench: Bench, segment: Segment, batch: int = 1) -> None:
        self._bench, self._segment, self._batch = bench, segment, batch
        self.plan: SegmentPlan = plan_segment(segment, bench.traits)
        self._slots = [self._slot(batch * nbytes) for nbytes in self.plan.slots]
        self._constants = [
            cl.Buffer(bench.context, cl.mem_flags.READ_ONLY | cl.mem_flags.COPY_HOST_PTR, hostbuf=content)
            for content in self.plan.constants
        ]
        self.kernels = [self._kernel(launch) for launch in self.plan.launches]

    def _slot(self, nbytes: int) -> Any:
        content = np.full(nbytes + GUARD_BYTES, GUARD, np.uint8)
        flags = cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR
        return cl.Buffer(self._bench.context, flags, hostbuf=content)

    def _kernel(self, launch: Launch) -> Any:
        kernel = cl.Kernel(self._bench.program, launch.kernel)
        for index, argument in enumerate(launch.arguments):
            if isinstance(argument, Slot):
                kernel.set_arg(index, self._slots[argument.index])
            elif isinstance(argument, Constant):
                kernel.set_arg(index, self._constants[argument.index])
            else:
                kernel.set_arg(index, np.int32(argument))
        return kernel

    def launch(self) -> list[Any]:
        """Every kernel, enqueued: their events."""
        return [
            cl.enqueue_nd_range_kernel(
                self._bench.queue, kernel, (*launch.size[:2], launch.size[2] * self._batch), launch.local
            )
            for kernel, launch in zip(self.kernels, self.plan.launches, strict=True)
        ]

    def run(self, samples: Sequence[Arrays]) -> list[dict[str, NDArray[Any]]]:
        """Outputs of each sample. AssertionError when a kernel has written beyond a buffer."""
        queue = self._bench.queue
        for crossing in self.plan.inputs:
            raw = np.concatenate([np.ascontiguousarray(sample[crossing.name]).ravel() for sample in samples])
            cl.enqueue_copy(queue, self._slots[crossing.slot], raw)
        self.launch()
        for slot, nbytes in zip(self._slots, self.plan.slots, strict=True):
            guard = np.empty(GUARD_BYTES, np.uint8)
            cl.enqueue_copy(queue, guard, slot, src_offset=self._batch * nbytes)
            assert (guard == GUARD).all(), "a kernel has written beyond its buffer"
        found: list[dict[str, NDArray[Any]]] = [{} for _ in samples]
        for crossing, binding in zip(self.plan.outputs, self._segment.outputs, strict=True):
            raw = np.empty((len(samples), crossing.nbytes), np.uint8)
            cl.enqueue_copy(queue, raw, self._slots[crossing.slot])
            tensor = binding.tensor
            for each, values in zip(found, raw, strict=True):
                each[tensor.name] = values.view(tensor.dtype.lower()).reshape(tensor.shape)
        return found
