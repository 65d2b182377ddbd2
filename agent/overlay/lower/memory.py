"""Addresses for buffers that live from one operation to another: first fit, several orders tried."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Buffer:
    """``words`` used by operations ``first`` to ``last``."""

    name: str
    words: int
    first: int
    last: int


ORDERS: tuple[Callable[[Buffer], tuple[int, ...]], ...] = (
    lambda each: (-each.words, each.first),
    lambda each: (each.first, -each.words),
    lambda each: (each.first - each.last, -each.words),
    lambda each: (-each.words * (each.last - each.first + 1), each.first),
)


def place(buffers: Sequence[Buffer]) -> tuple[dict[str, int], int]:
    """The address of each buffer, none of them over another that lives at the same time; words used in all."""
    return min((_first_fit(sorted(buffers, key=order)) for order in ORDERS), key=lambda found: found[1])


def _first_fit(buffers: Sequence[Buffer]) -> tuple[dict[str, int], int]:
    placed: list[tuple[int, Buffer]] = []
    addresses = {}
    used = 0
    for each in buffers:
        address = 0
        for at, other in sorted(
            (pair for pair in placed if pair[1].first <= each.last and each.first <= pair[1].last),
            key=lambda pair: pair[0],
        ):
            if address + each.words <= at:
                break
            address = max(address, at + other.words)
        placed.append((address, each))
        addresses[each.name] = address
        used = max(used, address + each.words)
    return addresses, used
