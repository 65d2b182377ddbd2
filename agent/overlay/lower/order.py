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
    starts, turn, deps = _simulate(spec, tasks, sizes)
    key = [0] * len(tasks)
    recent: dict[int, list[int]] = {engine: [] for engine in range(3)}
    for index in turn:
        queue = recent[_engine(tasks[index].stream)]
        key[index] = starts[queue[-DEPTH]] if len(queue) >= DEPTH else 0
        if queue:
            key[index] = max(key[index], key[queue[-1]])
        key[index] = max([key[index], *(key[each] for each in deps[index])])
        queue.append(index)
    place = {index: number for number, index in enumerate(turn)}
    return sorted(range(len(tasks)), key=lambda index: (key[index], place[index]))


def _engine(stream: Stream) -> int:
    """Loads of weights and of activations share one."""
    return max(0, stream - 1)


def _simulate(
    spec: Overlay, tasks: Sequence[Task], sizes: Mapping[Space, int]
) -> tuple[list[int], list[int], list[list[int]]]:
    """Start of each task, the order in which they start, and what each depends on."""
    queues, deps = _dependencies(tasks, sizes)
    heads = [0] * STREAMS
    free = [0, 0, 0]
    starts, finishes = [0] * len(tasks), [-1] * len(tasks)
    turn: list[int] = []
    while len(turn) < len(tasks):
        best: tuple[int, int] | None = None
        for stream, queue in zip(Stream, queues, strict=True):
            if heads[stream] == len(queue):
                continue
            index = queue[heads[stream]]
            ends = [finishes[each] for each in deps[index]]
            if min(ends, default=0) < 0:
                continue  # waits for one that has not been looked at
            candidate = (max([free[_engine(stream)], *ends]), index)
            if best is None or candidate < best:
                best = candidate
        assert best is not None, "tasks depend on earlier ones only"
        start, index = best
        task = tasks[index]
        heads[task.stream] += 1
        starts[index] = start
        finishes[index] = start + estimate(spec, task.fields)
        free[_engine(task.stream)] = finishes[index]
        turn.append(index)
    return starts, turn, deps


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
