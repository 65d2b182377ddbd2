"""Overlay programs on an OpenCL device, with the bits of the functional model. Imports pyopencl."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyopencl as cl
from numpy.typing import NDArray

from agent.devices.opencl.build import build_program, least_group
from agent.devices.opencl.failures import check_memory, named, room_on
from agent.devices.opencl.lane import Lane, Loaded, Times, slot_sizes
from agent.devices.opencl.lower import plan_segment
from agent.devices.opencl.plan import SegmentPlan
from agent.devices.opencl.platforms import ClDevice, handle, traits_of
from agent.devices.opencl.times import LayerTime, busy, total
from agent.devices.program import Arrays, Executed
from agent.errors import DeviceLost, OutOfDeviceMemory
from agent.overlay.execute import RunPart, Walk, walk
from agent.overlay.program import Part, Program, Segment

MAX_CHUNK = 16  # samples in one go: enough to fill a GPU with small layers
LANES = 2
KINDS = {"gpu": "gpu", "accelerator": "fpga"}  # what DeviceInfo calls them; a CPU is no other device
_turns = itertools.count()  # sessions of this process on parts of a CPU
Outputs = dict[str, NDArray[Any]]


@dataclass(slots=True)
class _Chunk:
    """Samples that step through the program together, from ``first`` on."""

    lane: Lane
    first: int
    walks: list[Walk]


class OpenClEngine:
    """See ``devices.program.Engine``. Batches run in chunks, two at a time on lanes of their own.

    On a CPU it uses at most ``threads`` compute units, where the driver can divide them. ``cache``: the folder for
    what runtimes build; ``binary``: a file of the kernels, for cards that compile none. ``profile``: measure layers.
    """

    def __init__(
        self,
        program: Program,
        device: ClDevice,
        threads: int,
        cache: Path | None = None,
        binary: Path | None = None,
        *,
        profile: bool = False,
    ) -> None:
        """Raises KernelBuildFailed, OutOfDeviceMemory, DeviceLost, and InferenceError for what else the driver says."""
        self._program, self._device, self._profile = program, device, profile
        segments = [step for step in program.steps if isinstance(step, Segment)]
        traits = traits_of(device, threads if device.kind == "cpu" else None)
        plans = [plan_segment(segment, traits) for segment in segments]
        self._kind = KINDS.get(device.kind) if any(isinstance(step, Part) for step in program.steps) else None
        self._numbers = {id(segment): number for number, segment in enumerate(segments)}
        self._lost: str | None = None  # why
        self._layer_times: list[LayerTime] = []
        self._plans, self._needed = plans, _needed(plans, 1)
        with named(device, allocating=True, needed=self._needed):
            whole = handle(device)
            self._handle = _part(whole, threads) if device.kind == "cpu" else whole
            self._context = cl.Context([self._handle])
            self._kernels = build_program(self._context, self._handle, device, traits, cache, binary)
            if (group := least_group(self._kernels, self._handle)) < traits.group:
                traits = replace(traits, group=group)
                plans = self._plans = [plan_segment(segment, traits) for segment in segments]
            room = room_on(device)  # beside what a compiler holds
            check_memory(self._needed, _largest(plans, 1), device, room)
            self._limit, self._most_lanes = chunk_limit(plans, room, device.max_alloc_bytes)
            self._loaded = [
                Loaded(segment, plan, self._upload(plan))
                for segment, plan in zip(segments, plans, strict=True)
            ]
            self._lanes = [self._open_lane()]
            self._lanes[0].reserve(1)

    @property
    def units(self) -> int:
        """Compute units that it runs on."""
        return int(self._handle.max_compute_units)

    def execute(self, samples: Sequence[Arrays], run_part: RunPart) -> Executed:
        """See ``Engine.execute``: device time is wall time. A device that was lost stays lost.

        Raises DeviceLost, OutOfDeviceMemory, InferenceError, and what host operators and ``run_part`` raise.
        """
        if self._lost is not None:
            raise DeviceLost(self._lost)
        started = time.perf_counter()
        try:
            outputs = self._run(samples, run_part)
        except BaseException as error:
            for lane in self._lanes:
                lane.drain()
            if isinstance(error, DeviceLost):
                self._lost = str(error)
            elif isinstance(error, OutOfDeviceMemory):  # a smaller batch, or another model, can have it
                for lane in self._lanes:
                    lane.close()
            raise
        wall_s = time.perf_counter() - started
        self._layer_times = total(each for lane in self._lanes for each in lane.times.layers)
        return Executed(outputs, wall_s, wall_s, self._parts(wall_s))

    def last_profile(self) -> list[LayerTime]:
        """Seconds by layer of the last run; empty unless opened with ``profile``."""
        return list(self._layer_times)

    def close(self) -> None:
        """See ``Engine.close``."""
        lanes, self._lanes = self._lanes, []
        for lane in lanes:
            lane.close()
        self._loaded = []

    def _run(self, samples: Sequence[Arrays], run_part: RunPart) -> list[Outputs]:
        size, lanes = self._reserve(len(samples))
        for lane in self._lanes:
            lane.times = Times()
        found: list[Outputs] = [{} for _ in samples]
        waiting, free = deque(range(0, len(samples), size)), deque(lanes)
        under_way: deque[_Chunk] = deque()
        while waiting or under_way:
            if waiting and free:
                first = waiting.popleft()
                walks = [walk(self._program, each, run_part) for each in samples[first : first + size]]
                chunk = _Chunk(free.popleft(), first, walks)
                outputs = self._step(chunk, None)
            else:
                chunk = under_way.popleft()
                with named(self._device, allocating=False, needed=self._needed):
                    arrived = chunk.lane.finish()
                outputs = self._step(chunk, arrived)
            if outputs is None:
                under_way.append(chunk)
            else:
                found[chunk.first : chunk.first + size] = outputs
                free.append(chunk.lane)
        return found

    def _step(self, chunk: _Chunk, arrived: Sequence[Arrays] | None) -> list[Outputs] | None:
        """On to the next segment, which is started, or to the outputs, which are returned."""
        ended: list[Outputs] = []
        given: list[Arrays] = []
        segment: Segment | None = None
        for row, going in enumerate(chunk.walks):
            try:
                segment, tensors = next(going) if arrived is None else going.send(arrived[row])
                given.append(tensors)
            except StopIteration as end:
                ended.append(end.value)
        if segment is None:
            return ended
        with named(self._device, allocating=False, needed=self._needed):
            chunk.lane.start(self._numbers[id(segment)], given)
        return None

    def _reserve(self, samples: int) -> tuple[int, list[Lane]]:
        """Samples in a chunk, and the lanes that have room for them; less of both where memory is short."""
        while True:
            chunks = -(-samples // self._limit)
            size = -(-samples // chunks)
            count = min(chunks, self._most_lanes)
            self._needed = _needed(self._plans, count * size)
            try:
                with named(self._device, allocating=True, needed=self._needed):
                    while len(self._lanes) < count:
                        self._lanes.append(self._open_lane())
                    for lane in self._lanes[:count]:
                        lane.reserve(size)
                return size, self._lanes[:count]
            except OutOfDeviceMemory:
                if size > 1:
                    self._limit = size // 2
                elif count > 1:
                    self._most_lanes = 1
                    self._lanes.pop().close()
                else:
                    raise

    def _open_lane(self) -> Lane:
        timed = self._kind is not None
        return Lane(
            self._context, self._handle, self._kernels, self._loaded, timed=timed, profile=self._profile
        )

    def _upload(self, plan: SegmentPlan) -> tuple[cl.Buffer, ...]:
        flags = cl.mem_flags.READ_ONLY | cl.mem_flags.COPY_HOST_PTR
        return tuple(cl.Buffer(self._context, flags, hostbuf=content) for content in plan.constants)

    def _parts(self, wall_s: float) -> dict[str, float]:
        if self._kind is None:
            return {}
        device_s = min(busy(span for lane in self._lanes for span in lane.times.spans), wall_s)
        return {self._kind: device_s, "cpu": wall_s - device_s}


def chunk_limit(plans: Sequence[SegmentPlan], memory_bytes: int, max_alloc_bytes: int) -> tuple[int, int]:
    """Samples in a chunk, and chunks at a time, for which half of the device's memory is enough; at least one each."""
    for size in range(MAX_CHUNK, 0, -1):
        fits = _largest(plans, size) <= max_alloc_bytes
        if fits and _needed(plans, LANES * size) <= memory_bytes // 2:
            return size, LANES
    return 1, 1


def _needed(plans: Sequence[SegmentPlan], samples: int) -> int:
    """With the host's side of what crosses, which takes of the same memory on all but GPUs with their own."""
    constants = sum(len(content) for plan in plans for content in plan.constants)
    crossing = sum(each.nbytes for plan in plans for each in (*plan.inputs, *plan.outputs))
    return constants + samples * (sum(slot_sizes(plans)) + crossing)


def _largest(plans: Sequence[SegmentPlan], samples: int) -> int:
    return max((plan.largest(samples) for plan in plans), default=0)


def _part(whole: cl.Device, threads: int) -> cl.Device:
    """So many compute units of a CPU, each time others; all of them where the driver does not divide it.

    PoCL runs what goes to one part on the same threads, whichever session sends it.
    """
    if threads >= whole.max_compute_units:
        return whole
    with contextlib.suppress(cl.Error):
        parts = whole.create_sub_devices([cl.device_partition_property.EQUALLY, threads, 0])
        return parts[next(_turns) % len(parts)]
    return whole
