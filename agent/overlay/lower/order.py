"""The order of descriptors in a chain: loads as early as memory and queues allow, so that they hide under compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent.overlay.cycles import estimate
from agent.overlay.lower.hazards import Hazards, Ordinals
from agent.overlay.lower.tasks import Stream, Task
from agent.overlay.lower.views import Space
from agent.overlay.spec import Overlay

DEPTH = 8  # of the three queues
STREAMS = len(Stream)


def chain_order(spec: Overlay, tasks: Sequence[Task], sizes: Mapping[Space, int]) -> list[int]:
    """Indices of ``tasks`` in chain order: a task comes behind all that it depends on.

    The three engines are simulated with queues of any length; a descriptor is dispatched when the eighth one before it
    in its queue starts, so that no queue that is full keeps another one waiting.
    """
    machine = _Machine(spec, tasks, sizes)
    machine.run()
    key = [0] * len(tasks)
    recent: dict[int, list[int]] = {engine: [] for engine in range(3)}
    for index in machine.turn:
        queue = recent[_engine(tasks[index].stream)]
        key[index] = machine.starts[queue[-DEPTH]] if len(queue) >= DEPTH else 0
        if queue:
            key[index] = max(key[index], key[queue[-1]])
        key[index] = max([key[index], *(key[each] for each in machine.deps[index])])
        queue.append(index)
    place = {index: number for number, index in enumerate(machine.turn)}
    return sorted(range(len(tasks)), key=lambda index: (key[index], place[index]))


def _engine(stream: Stream) -> int:
    """Loads of weights and of activations share one."""
    return max(0, stream - 1)


class _Machine:
    """Three engines without latencies, and which tasks they have begun."""

    def __init__(self, spec: Overlay, tasks: Sequence[Task], sizes: Mapping[Space, int]) -> None:
        self._tasks = tasks
        self._cycles = [estimate(spec, task.fields) for task in tasks]
        self._queues, self.deps = _dependencies(tasks, sizes)
        self._heads = [0] * STREAMS
        self._free = [0, 0, 0]
        self._ends = [-1] * len(tasks)
        self.starts = [0] * len(tasks)
        self.turn: list[int] = []

    def run(self) -> None:
        """Compute and stores go as soon as they can; loads are chosen when their engine is free."""
        while len(self.turn) < len(self._tasks):
            moved = True
            while moved:
                moved = self._advance(Stream.COMPUTE) or self._advance(Stream.STORES)
            chosen = self._choose()
            if chosen is not None:
                self._start(chosen)

    def _head(self, stream: Stream) -> tuple[int, int] | None:
        """The next task of a stream and when it can start; None when there is none, or nobody knows when."""
        queue = self._queues[stream]
        if self._heads[stream] == len(queue):
            return None
        index = queue[self._heads[stream]]
        ends = [self._ends[each] for each in self.deps[index]]
        if min(ends, default=0) < 0:
            return None
        return index, max([self._free[_engine(stream)], *ends])

    def _advance(self, stream: Stream) -> bool:
        head = self._head(stream)
        if head is not None:
            self._start(head)
        return head is not None

    def _choose(self) -> tuple[int, int] | None:
        """The load that is needed first; the other one before it when that is ready earlier and keeps nobody waiting:
        compute has work until the first one is there."""
        heads = [head for stream in (Stream.WEIGHTS, Stream.INPUTS) if (head := self._head(stream))]
        if len(heads) < 2:
            return heads[0] if heads else None
        (first, first_start), (other, other_start) = sorted(heads)
        spare = max(first_start, self._free[_engine(Stream.COMPUTE)] - self._cycles[first])
        if other_start < first_start and other_start + self._cycles[other] <= spare:
            return other, other_start
        return first, first_start

    def _start(self, chosen: tuple[int, int]) -> None:
        index, start = chosen
        stream = self._tasks[index].stream
        self._heads[stream] += 1
        self.starts[index] = start
        self._free[_engine(stream)] = self._ends[index] = start + self._cycles[index]
        self.turn.append(index)


def _dependencies(
    tasks: Sequence[Task], sizes: Mapping[Space, int]
) -> tuple[list[list[int]], list[list[int]]]:
    """The tasks of each stream, and for each task the latest ones of other streams that it depends on."""
    hazards = Hazards(sizes, STREAMS)
    queues: list[list[int]] = [[] for _ in Stream]
    deps = []
    for index, task in enumerate(tasks):
        deps.append(
            [
                queues[stream][last]
                for stream, last in enumerate(_both(*hazards.before(task)))
                if last >= 0 and stream != task.stream
            ]
        )
        hazards.note(task, task.stream, len(queues[task.stream]))
        queues[task.stream].append(index)
    return queues, deps


def _both(results: Ordinals, readers: Ordinals) -> Ordinals:
    return [max(pair) for pair in zip(results, readers, strict=True)]
