"""Semaphores and DRAIN: every dependency of a chain kept with as few of them as can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent.overlay.lower.hazards import Hazards
from agent.overlay.lower.tasks import Stream, Task
from agent.overlay.lower.views import Space
from agent.overlay.spec import Overlay

LOAD, COMPUTE, STORE = range(3)
ENGINES = ("LOAD", "COMPUTE", "STORE")
ENGINE = {Stream.WEIGHTS: LOAD, Stream.INPUTS: LOAD, Stream.COMPUTE: COMPUTE, Stream.STORES: STORE}


def link(spec: Overlay, tasks: Sequence[Task], sizes: Mapping[Space, int]) -> list[dict[str, int]]:
    """The fields of a chain's descriptors with waits, signals and DRAIN.

    What is known to have finished when a task starts (``known``, by engine) grows along the engine's queue and through
    every wait; a dependency that follows from it needs no semaphore. The k-th wait on a semaphore pairs with the k-th
    signal, since edges between two engines never cross.
    """
    hazards = Hazards(sizes, len(ENGINES))
    queues: list[list[int]] = [[], [], []]
    known: list[list[int]] = []  # per task
    fields = [{"flags": 0, **task.fields, "wait": 0, "signal": 0} for task in tasks]
    for index, task in enumerate(tasks):
        engine = ENGINE[task.stream]
        queue = queues[engine]
        mine = list(known[queue[-1]]) if queue else [-1, -1, -1]
        results, readers = hazards.before(task)
        wanted = [max(pair) for pair in zip(results, readers, strict=True)]
        for other in _needed(engine, wanted, mine, queues, known):
            ordinal = wanted[other]
            source = queues[other][ordinal]
            semaphore = 1 << spec.semaphores[f"{ENGINES[other]}_{ENGINES[engine]}"]
            fields[source]["signal"] |= semaphore
            fields[index]["wait"] |= semaphore
            mine = [max(pair) for pair in zip(mine, known[source], strict=True)]
            mine[other] = max(mine[other], ordinal)
        if engine == COMPUTE and results[COMPUTE] > mine[COMPUTE]:
            fields[index]["flags"] |= spec.flags["DRAIN"]
            mine[COMPUTE] = len(queue) - 1
        known.append(mine)
        hazards.note(task, engine, len(queue))
        queue.append(index)
    return fields


def _needed(
    engine: int, wanted: list[int], mine: list[int], queues: list[list[int]], known: list[list[int]]
) -> list[int]:
    """The engines to wait for. One of two is enough when what it knew includes the other's task."""
    needed = {
        other: ordinal for other, ordinal in enumerate(wanted) if other != engine and ordinal > mine[other]
    }
    for other, ordinal in tuple(needed.items()):
        for through, last in needed.items():
            if through != other and known[queues[through][last]][other] >= ordinal:
                del needed[other]
                break
    return list(needed)
