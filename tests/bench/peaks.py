"""What an OpenCL device can do at most, measured: multiply-accumulates whose operands never leave registers.

Each kernel is chains of ``acc = acc + f(acc) * x``, which no compiler can fold, unrolled so that one chain's latency is
hidden by the others. A peak is the fastest of several ways to write it: which one the hardware has is not known before.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyopencl as cl

from agent.devices.opencl.plan import Traits

CHAINS = 10  # hides latency 4 at two a clock, with registers to spare
LEAST_S, ROUNDS = 0.01, 5
EMPTY = 400  # kernels of nothing in one chain

KERNEL = """
{extension}
kernel void chains(global int* out, int steps, int seed) {{
    {vector} x = ({vector})(({scalar})seed);
    {declare}
    for (int i = 0; i < steps; i++) {{
        {advance}
    }}
    {vector} sum = {total};
    if (any({test})) out[get_global_id(0)] = 1;  // never: keeps the sums alive
}}
kernel void nothing(global int* out) {{
    if (get_global_id(0) == 0xffffff) out[0] = 1;
}}
"""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to write it. ``step``: of accumulator ``{a}``; ``macs``: a lane's in one step."""

    name: str
    scalar: str
    widths: tuple[int, ...]
    step: str
    macs: int = 1
    dot: bool = False


FP32 = (Way("multiply-add", "float", (1, 4, 8, 16), "{a} * x + x"),)
INT8 = (
    Way("dot4", "int", (1,), "{a} + dot_4x8packed_ss_int(as_uint({a}), as_uint(x))", 4, dot=True),
    Way("widened", "int", (1, 8, 16), "{a} + convert_{vector}(convert_{chars}({a})) * x"),
    Way("pairs", "int", (4, 8), "{a} + {even} + {odd}", 2),
)


@dataclass(frozen=True, slots=True)
class Peaks:
    """Multiply-accumulates a second, which way was fastest, and seconds of an empty kernel in a chain of many."""

    int8: float
    int8_way: str
    fp32: float
    fp32_way: str
    enqueue_s: float


def measure_peaks(device: Any, traits: Traits) -> Peaks:
    """Of a ``pyopencl.Device`` (or a part of one), on all compute units that ``traits`` counts."""
    bench = _Bench(device, traits)
    int8 = max(bench.rates(INT8))
    fp32 = max(bench.rates(FP32))
    return Peaks(*int8, *fp32, bench.empty_s())


def part_of(device: Any, threads: int) -> Any:
    """As many compute units of a CPU."""
    if threads >= device.max_compute_units:
        return device
    (part, *_) = device.create_sub_devices([cl.device_partition_property.BY_COUNTS, threads])
    return part


class _Bench:
    def __init__(self, device: Any, traits: Traits) -> None:
        self._device, self._traits = device, traits
        self._context = cl.Context([device])
        self._queue = cl.CommandQueue(self._context)
        self._local = min(
            traits.group, 16 if traits.kind == "cpu" else 256
        )  # CPUs make vectors of work-items
        self._items = traits.units * self._local * (1 if traits.kind == "cpu" else 16)
        self._out = cl.Buffer(self._context, cl.mem_flags.READ_WRITE, 4 * self._items)

    def rates(self, ways: tuple[Way, ...]) -> Iterator[tuple[float, str]]:
        """(multiply-accumulates a second, name) of each way and width that this device can be asked."""
        for way in ways:
            if way.dot and not self._traits.dot:
                continue
            for width in way.widths:
                yield self._rate(way, width), f"{way.name} x {width}"

    def empty_s(self) -> float:
        """Seconds of one kernel of a chain in which none does anything, best of ROUNDS."""
        kernel = self._build(_source(FP32[0], 1)).nothing
        kernel.set_args(self._out)

        def chain() -> float:
            started = time.perf_counter()
            for _ in range(EMPTY):
                cl.enqueue_nd_range_kernel(self._queue, kernel, (self._local,), (self._local,))
            self._queue.finish()
            return time.perf_counter() - started

        chain()
        return min(chain() for _ in range(ROUNDS)) / EMPTY

    def _rate(self, way: Way, width: int) -> float:
        kernel = self._build(_source(way, width)).chains
        steps = 256
        self._time(kernel, steps)  # some drivers compile now
        while (took := self._time(kernel, steps)) < LEAST_S:
            steps = int(steps * min(max(1.5 * LEAST_S / took, 1.5), 16))
        took = min(self._time(kernel, steps) for _ in range(ROUNDS))
        return way.macs * width * CHAINS * steps * self._items / took

    def _time(self, kernel: Any, steps: int) -> float:
        started = time.perf_counter()
        kernel(self._queue, (self._items,), (self._local,), self._out, np.int32(steps), np.int32(3))
        self._queue.finish()
        return time.perf_counter() - started

    def _build(self, source: str) -> Any:
        options = ["-cl-mad-enable", *(["-cl-std=CL3.0"] if self._traits.dot else [])]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", cl.CompilerWarning)
            return cl.Program(self._context, source).build(options)


def _source(way: Way, width: int) -> str:
    suffix = "" if width == 1 else str(width)
    vector, names = f"{way.scalar}{suffix}", [f"a{index}" for index in range(CHAINS)]
    test = "sum == x" if width > 1 else "-(int)(sum == x)"
    return KERNEL.format(
        extension="#pragma OPENCL EXTENSION cl_khr_integer_dot_product : enable" if way.dot else "",
        scalar=way.scalar,
        vector=vector,
        declare="\n    ".join(
            f"{vector} {name} = x + ({vector})(({way.scalar})(get_global_id(0) + {index}));"
            for name, index in zip(names, itertools.count())
        ),
        advance="\n        ".join(f"{name} = {_step(way, width, name, vector, suffix)};" for name in names),
        total=" + ".join(names),
        test=test,
    )


def _step(way: Way, width: int, name: str, vector: str, suffix: str) -> str:
    shorts = f"as_short{2 * width}"
    products = {
        half: f"convert_{vector}({shorts}({name}).{half}) * convert_{vector}({shorts}(x).{half})"
        for half in ("even", "odd")
    }
    return way.step.format(a=name, vector=vector, chars=f"char{suffix}", **products)
