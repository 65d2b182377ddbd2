"""Which tensors share a buffer: those that are not alive at once."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Life:
    """A tensor from the step that writes it to the last that reads it, both included. ``shared``: with others."""

    name: Hashable
    nbytes: int
    first: int
    last: int
    shared: bool = True


def assign(lives: Iterable[Life]) -> tuple[dict[Hashable, int], tuple[int, ...]]:
    """The buffer of every tensor by name, and the bytes of every buffer.

    In the order in which they are written, each takes the free buffer that it fits best (the smallest that is large
    enough, otherwise the largest, which grows), or a new one.
    """
    taken: dict[Hashable, int] = {}
    sizes: list[int] = []
    busy_until: list[int | None] = []  # None: never free
    for life in sorted(lives, key=lambda life: life.first):
        free = [
            index
            for index, last in enumerate(busy_until)
            if life.shared and last is not None and last < life.first
        ]
        fitting = [index for index in free if sizes[index] >= life.nbytes]
        if fitting:
            index = min(fitting, key=sizes.__getitem__)
        elif free:
            index = max(free, key=sizes.__getitem__)
        else:
            index = len(sizes)
            sizes.append(0)
            busy_until.append(None)
        sizes[index] = max(sizes[index], life.nbytes)
        busy_until[index] = life.last if life.shared else None
        taken[life.name] = index
    return taken, tuple(sizes)
