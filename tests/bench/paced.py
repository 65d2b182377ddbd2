"""An overlay that takes its time and computes nothing: what this side does beside it is real."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from agent.devices.parts import open_part
from agent.hal import Buffer
from agent.overlay.compiler import compile_model
from agent.overlay.cycles import chain_cycles
from agent.overlay.driver import Driver
from agent.overlay.overlap import Overlapped
from agent.overlay.program import Part, Program
from agent.overlay.regions import Arrays
from agent.overlay.spec import Overlay
from simulator.overlay.machine import BUSY, DONE, RESET, START, reset_values
from simulator.overlay.memory import Memory
from tests.unit.overlay.onnx_nets import Net

SAMPLES, ROUNDS = 32, 7


class PacedTransport:
    """See ``hal.OverlayTransport``. A chain ends when the time has passed that its cycles take at the overlay's clock;
    outputs are what was in the memory."""

    def __init__(self, spec: Overlay) -> None:
        self._spec, self._memory = spec, Memory()
        self._names = {register.offset: name for name, register in spec.registers.items()}
        self._registers = reset_values(spec)
        self._cycles: dict[tuple[int, int], int] = {}
        self._end = 0.0

    def read32(self, offset: int) -> int:
        """See ``hal.OverlayTransport.read32``."""
        name = self._names[offset]
        if name == "STATUS" and self._end:
            return BUSY if time.perf_counter() < self._end else DONE
        return self._registers[name]

    def write32(self, offset: int, value: int) -> None:
        """See ``hal.OverlayTransport.write32``."""
        name = self._names[offset]
        self._registers[name] = value
        if name == "CONTROL" and value & RESET:
            self._registers, self._end = reset_values(self._spec), 0.0
        elif name == "CONTROL" and value & START:
            self._registers["CYCLES"] = cycles = self._count()
            self._end = time.perf_counter() + cycles / self._spec.clock.hz

    def allocate(self, nbytes: int) -> Buffer:
        """See ``hal.OverlayTransport.allocate``."""
        return self._memory.allocate(nbytes)

    def wait(self, timeout_s: float) -> bool:
        """See ``hal.OverlayTransport.wait``."""
        left_s = self._end - time.perf_counter()
        if left_s > 0:
            time.sleep(min(left_s, timeout_s))
        return time.perf_counter() >= self._end

    def give_way(self) -> None:
        """See ``hal.OverlayTransport.give_way``."""

    def compute_ends(self) -> Sequence[int]:
        """See ``hal.OverlayTransport.compute_ends``."""
        return ()

    def close(self) -> None:
        """See ``hal.OverlayTransport.close``."""

    def _count(self) -> int:
        start, first = self._registers["REGION0_LOW"], self._registers["CHAIN"]
        if (start, first) not in self._cycles:
            program = self._memory.at(start, self._registers["REGION0_BYTES"])
            assert program is not None
            self._cycles[start, first] = chain_cycles(self._spec, program[first:].tobytes()).total
        return self._cycles[start, first]


@dataclass(frozen=True, slots=True)
class Overlap:
    """What it brings that samples overlap. ``ratio``: wall time of samples one by one to that of the same samples in
    one run; ``transfer_ms``: of a sample's tensors, there and back."""

    ratio: float
    transfer_ms: float


def measure_overlap(program: Program, spec: Overlay) -> Overlap:
    """Medians over ROUNDS rounds, each of SAMPLES samples both ways."""
    free = tuple(replace(each, shape=(-1, *each.shape[1:])) for each in program.inputs)
    parts = {id(step): open_part(step, 1) for step in program.steps if isinstance(step, Part)}
    loaded = Driver(PacedTransport(spec), spec).load(replace(program, inputs=free))
    rng = np.random.default_rng(3)
    samples = [
        {
            each.name: rng.integers(0, 128, tuple(map(abs, each.shape))).astype(each.dtype.lower())
            for each in free
        }
        for _ in range(SAMPLES)
    ]

    def run(batches: Sequence[Sequence[Arrays]]) -> tuple[float, float]:
        """Wall seconds in all, and of transfers."""
        started, transfers_s = time.perf_counter(), 0.0
        for batch in batches:
            overlapped = Overlapped(loaded, lambda part, given: parts[id(part)](given))
            overlapped.run(batch)
            transfers_s += overlapped.times.transfer_s
        return time.perf_counter() - started, transfers_s

    run([samples])  # loads the weights that stay
    rounds = [(run([[sample] for sample in samples]), run([samples])) for _ in range(ROUNDS)]
    return Overlap(
        statistics.median(alone[0] / together[0] for alone, together in rounds),
        1e3 * statistics.median(together[1] for _, together in rounds) / SAMPLES,
    )


def composite(spec: Overlay) -> Program:
    """Three INT8 convolutions on the overlay, the last one in float on the CPU, which is 39 % of the arithmetic."""
    net = Net(1)
    x, steps = net.input([1, 3, 96, 96]), net.steps()
    for channels, out, stride in ((3, 16, 2), (16, 32, 1), (32, 32, 1)):
        after = net.steps(net.scale(0.05, 0.1))
        weights = net.constant(net.weights((out, channels, 3, 3)))
        rest = [net.constant(np.float32(0.01)), net.constant(np.int8(0)), *after]
        x = net.node("QLinearConv", [x, *steps, weights, *rest], pads=[1] * 4, strides=[stride] * 2)
        steps = after
    last = net.constant(net.rng.standard_normal((32, 32, 3, 3)).astype(np.float32))
    y = net.node("Conv", [net.dequantize(x, steps), last], pads=[1] * 4)
    return compile_model(net.model(y).SerializeToString(), spec, name="composite")
