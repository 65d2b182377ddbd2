"""The core and its memory in time: descriptor by descriptor, burst by burst, nothing by cycle.

Every time is computed as soon as all that it depends on is known; only the read port, which fetch and LOAD share, is
followed in order of time. Constants are latencies of the RTL (bitstreams/npu/rtl), named by module, and of the memory
of the figures: a 64-bit port at the core's clock. Times are cycles since start. Left out: stalls of the memory, and
words of a transfer that wait because the datapath uses their bank in that cycle, unless that goes on and on (``Slow``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from agent.overlay.cyclebus import READ_LATENCY, ReadPort, Slow, Stores, bursts, slow, stretched
from agent.overlay.cycles import ChainCycles, ComputeTimes, Fields, reads
from agent.overlay.spec import Overlay

DEPTH = 8  # npu_fetch: descriptors asked for ahead, and places of each queue
BEGIN = 1  # npu_fetch: from start to the first request
DESCRIPTOR_BEATS = 8
WRITTEN = 2  # npu_load: from the last beat to done
FINISH = 18  # npu_compute: from the last read to done
HOLD = 8  # npu_sequencer: from a descriptor's first read until the next one may become current
RECENT = 16  # compute descriptors that may run beside a transfer
END_CYCLES = 1  # npu_control: from the last descriptor's done to that of the chain

LOAD, COMPUTE, STORE = range(3)


@dataclass(slots=True)
class Queue:
    """The descriptors of one engine: what they are, when each was pushed and popped."""

    fields: list[Fields] = field(default_factory=list)
    pushed: list[int] = field(default_factory=list)
    popped: list[int] = field(default_factory=list)

    def room(self) -> int | None:
        """When the next one can be pushed; None when that is not known yet."""
        oldest = len(self.pushed) - DEPTH
        if oldest < 0:
            return 0
        return self.popped[oldest] + 1 if oldest < len(self.popped) else None


class Semaphores:
    """When each was given, and how often it was taken."""

    def __init__(self) -> None:
        self._given: list[list[int]] = [[] for _ in range(8)]
        self._taken = [0] * 8

    def take(self, mask: int) -> int | None:
        """When all of ``mask`` can be taken (they are then); None, and nothing taken, when that is not known yet."""
        at = 0
        for index in _bits(mask):
            if self._taken[index] == len(self._given[index]):
                return None
            at = max(at, self._given[index][self._taken[index]] + 1)
        for index in _bits(mask):
            self._taken[index] += 1
        return at

    def give(self, mask: int, at: int) -> None:
        for index in _bits(mask):
            self._given[index].append(at)


def _bits(mask: int) -> Iterator[int]:
    return (index for index in range(8) if mask >> index & 1)


class Transfers:
    """The start of LOADs or STOREs (npu_transfer)."""

    def __init__(self, queue: Queue, semaphores: Semaphores) -> None:
        self._queue, self._semaphores = queue, semaphores
        self._started: int | None = 0  # the descriptor before; None: not known
        self._held: int | None = None
        self.issued: int | None = 0  # the last burst of the descriptor before; None: not known

    def start(self) -> tuple[int, Fields] | None:
        """The next descriptor and when it starts, once that is known."""
        queue = self._queue
        if self._held is None:
            index = len(queue.popped)
            if self._started is None or index == len(queue.pushed):
                return None
            self._held = max(queue.pushed[index] + 1, self._started)
            queue.popped.append(self._held)
            self._started = None
        if self.issued is None:
            return None
        fields = queue.fields[len(queue.popped) - 1]
        available = self._semaphores.take(fields["wait"])
        if available is None:
            return None
        checked = self._held + 1 + (fields["runs"] - 1).bit_length()
        self._started = max(checked, available, self.issued)
        self._held = self.issued = None
        return self._started, fields


class Compute:
    """npu_sequencer: one descriptor reads, the next one is accepted and its first weights loaded."""

    def __init__(self, spec: Overlay, queue: Queue, semaphores: Semaphores) -> None:
        self._spec, self._queue, self._semaphores = spec, queue, semaphores
        self._idle = 0  # the weight loader
        self._current = -1  # when the descriptor before became current, its first and its last read, its end
        self._first, self._last, self.end = -HOLD, 0, 0
        self.times: list[ComputeTimes] = []
        self.slow: list[Slow] = []

    def step(self) -> bool:
        """Whether another descriptor is known from its beginning to its end."""
        queue, index = self._queue, len(self._queue.popped)
        if index == len(queue.pushed):
            return False
        fields = queue.fields[index]
        available = self._semaphores.take(fields["wait"])
        if available is None:
            return False
        accepted = max(queue.pushed[index] + 1, available, self._idle, self._current + 1)
        current = self._last
        if accepted + 1 > current or self._first + HOLD > current or self._first == current:
            current = max(accepted + 1, self._first + HOLD, self._last + 1)
        work = reads(self._spec, fields)
        drained = current + 1
        if fields["flags"] & self._spec.flags["DRAIN"] and self.times:
            drained = max(drained, self.end + 1)
        first = max(drained, accepted + work.first_rows)
        last = first + work.to_last_pass + work.last_pass - 1
        wait = max(0, accepted - self._last)
        self._idle = first + work.to_last_pass + 1 if work.first_rows else self._idle
        self.end = last + FINISH
        weights = first - drained + last - first + 1 - work.issue
        self.times.append(ComputeTimes(self.end, work.issue, wait, drained - current - 1, weights))
        self._current, self._first, self._last = current, first, last
        hinders = slow(self._spec, fields, first, last)
        if hinders is not None:
            self.slow.append(hinders)
        queue.popped.append(current)
        self._semaphores.give(fields["signal"], self.end)
        return True


class Model:
    """A chain of descriptors (END not among them) in a region of ``places`` x 64 bytes."""

    def __init__(self, spec: Overlay, descriptors: Sequence[Fields], places: int) -> None:
        self._lanes, self._descriptors = spec.lanes, descriptors
        self._places, self._weights = places, spec.flags["WEIGHTS"]
        opcodes = {spec.opcodes["LOAD"]: LOAD, spec.opcodes["STORE"]: STORE}
        self._engines = [opcodes.get(fields["opcode"], COMPUTE) for fields in descriptors]
        self._queues = [Queue() for _ in range(3)]
        semaphores = self._semaphores = Semaphores()
        self._loads = Transfers(self._queues[LOAD], semaphores)
        self._compute = Compute(spec, self._queues[COMPUTE], semaphores)
        self._store_starts = Transfers(self._queues[STORE], semaphores)
        self._stores = Stores(spec.lanes)
        self._port = ReadPort()
        self._asked = BEGIN - 1  # the latest request of a descriptor
        self._fetched: list[int] = []  # last beats
        self._gathered: list[int] = []
        self._pushed, self._pushes = BEGIN, 0  # the latest, and how many
        self._load: Fields | None = None  # whose bursts come next
        self._bursts: list[int] = []
        self._offered = self._next = 0  # when the first of them is offered, which one is next
        self._began = 0  # before their first beat, about
        self._last = 0  # done of LOADs and STOREs
        self._transfers = 0  # that are done

    def run(self) -> ChainCycles:
        """Until every descriptor has ended. ValueError when they wait for each other."""
        self._settle()
        while self._read():
            self._settle()
        if self._transfers + len(self._compute.times) < len(self._descriptors):
            raise ValueError("the chain's descriptors wait for each other")
        last = max(self._last, self._compute.end, self._gathered[-1])
        return ChainCycles(last + END_CYCLES, tuple(self._compute.times))

    def _settle(self) -> None:
        """All that follows from what has been read."""
        while self._dispatch() or self._start_load() or self._compute.step() or self._store():
            pass

    def _dispatch(self) -> bool:
        """Gather or push the next descriptor; END is only gathered."""
        index = self._pushes
        if index == len(self._gathered):
            if index >= min(len(self._fetched), len(self._descriptors) + 1):
                return False
            self._gathered.append(max(self._fetched[index] + 1, self._pushed + DESCRIPTOR_BEATS - 1))
            return True
        if index == len(self._descriptors):
            return False
        queue = self._queues[self._engines[index]]
        room = queue.room()
        if room is None:
            return False
        self._pushed = max(self._gathered[index] + 1, room)
        self._pushes += 1
        queue.fields.append(self._descriptors[index])
        queue.pushed.append(self._pushed)
        return True

    def _start_load(self) -> bool:
        found = None if self._load else self._loads.start()
        if found is None:
            return False
        start, self._load = found
        self._bursts, self._next = list(bursts(self._lanes, self._load)), 0
        self._offered = start + 1
        self._began = max(self._port.end, start + READ_LATENCY)
        return True

    def _store(self) -> bool:
        found = self._store_starts.start()
        if found is None:
            return False
        start, fields = found
        paces = [
            (each.first, each.last, each.store) for each in self._compute.slow[-RECENT:] if each.store < 1
        ]
        self._store_starts.issued, done = self._stores.run(start, fields, paces)
        self._finish(fields, done)
        return True

    def _finish(self, fields: Fields, done: int) -> None:
        self._semaphores.give(fields["signal"], done)
        self._last = max(self._last, done)
        self._transfers += 1

    def _fetch_request(self) -> int | None:
        """When the next descriptor is asked for; None when that is not known yet, or never."""
        index = len(self._fetched)
        place = index - DEPTH
        if index == self._places or place >= len(self._gathered):
            return None
        request = max(self._asked + 1, self._gathered[place] + 1 if place >= 0 else 0)
        ended = len(self._gathered) > len(self._descriptors)
        return None if ended and request > self._gathered[-1] else request

    def _read(self) -> bool:
        """The next requests of the read port, up to one from which something follows; whether there are any."""
        port, fetch = self._port, self._fetch_request()
        if fetch is not None and (self._load is None or fetch <= max(self._offered, port.free)):
            self._asked = max(fetch, port.free)
            self._fetched.append(port.accept(self._asked, DESCRIPTOR_BEATS))
            return True
        if self._load is None:
            return False
        issued = end = 0
        for index in range(self._next, len(self._bursts)):
            issued = max(self._offered, port.free)
            if fetch is not None and fetch <= issued:
                self._next = index
                return True
            end = port.accept(issued, self._bursts[index])
        self._loads.issued = issued
        paces = [(each.first, each.last, each.load) for each in self._compute.slow[-RECENT:]]
        if paces and not self._load["flags"] & self._weights:
            end = stretched(self._began, end, paces)
            port.delay(end)
        self._finish(self._load, end + WRITTEN)
        self._load = None
        return True
