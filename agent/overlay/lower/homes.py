"""Which values stay on the chip whole, which lie in DDR and come in tiles."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from agent.overlay.lower.build import Work
from agent.overlay.lower.memory import Buffer, place
from agent.overlay.lower.tiling import Tiling, choose, tile_shape
from agent.overlay.lower.views import Unplaceable

STATES = 32  # combinations that are followed from operation to operation
SHARES = (1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.7, 0.6, 0.5)  # of the memory, as fragments may waste some
TAIL = 1  # words: a packed window may touch the word behind its last


@dataclass(frozen=True, slots=True)
class Homes:
    """``chip``: first word of values that are on the chip whole. ``tiles[i]``: first words of operation i's buffers,
    those of each input and then those of the output, empty for values on the chip."""

    chip: Mapping[str, int]
    tilings: tuple[Tiling, ...]
    tiles: tuple[tuple[tuple[int, ...], ...], ...]


@dataclass(frozen=True, slots=True)
class _State:
    """Up to some operation: cycles so far, and the choices made."""

    cycles: int
    chip: frozenset[str]
    tilings: tuple[Tiling, ...]


def find_homes(work: Work) -> Homes:
    """Raises Unplaceable when an operation has no tiles that fit."""
    memory = work.spec.memory.activation_words - TAIL
    failed: Unplaceable | None = None
    for share in SHARES:
        try:
            state = _best(work, int(memory * share))
        except Unplaceable as error:
            failed = failed or error
            break
        homes = _placed(work, state, memory)
        if homes is not None:
            return homes
    raise failed or Unplaceable(0, "its values do not fit beside each other on the chip")


def _best(work: Work, memory: int) -> _State:
    """Follow the fastest choices for every set of values on the chip."""

    @functools.cache
    def tiles(index: int, in_ddr: tuple[bool, ...], out_ddr: bool, words: int) -> Tiling | None:
        return choose(work.spec, work.ops[index], in_ddr, out_ddr, words)

    states = [_State(0, frozenset(), ())]
    for index, names in enumerate(work.names):
        new = [name for name in dict.fromkeys(names) if work.values[name].first == index]
        found: dict[frozenset[str], _State] = {}
        for state, homes in itertools.product(states, itertools.product((True, False), repeat=len(new))):
            chosen = frozenset(name for name, home in zip(new, homes, strict=True) if home)
            chip = frozenset(name for name in state.chip if work.values[name].last >= index) | chosen
            words = memory - sum(work.values[name].shape.words for name in chip)
            if words < 0:
                continue
            in_ddr = tuple(name not in chip for name in names[:-1])
            tiling = tiles(index, in_ddr, names[-1] not in chip, words)
            if tiling is None:
                continue
            next_state = _State(state.cycles + tiling.cycles, state.chip | chosen, (*state.tilings, tiling))
            live = frozenset(name for name in chip if work.values[name].last > index)
            if live not in found or next_state.cycles < found[live].cycles:
                found[live] = next_state
        if not found:
            raise Unplaceable(index, _too_large(work, index, memory))
        states = sorted(found.values(), key=lambda each: each.cycles)[:STATES]
    return states[0]


def _too_large(work: Work, index: int, memory: int) -> str:
    words = tile_shape(work.ops[index], 0, 1, 1).words
    return f"one row of its output needs {words} words of {work.spec.lanes} bytes of its input, the chip has {memory}"


def _placed(work: Work, state: _State, memory: int) -> Homes | None:
    buffers = [
        Buffer(name, work.values[name].shape.words, work.values[name].first, work.values[name].last)
        for name in sorted(state.chip)
    ]
    tiles: list[list[list[str]]] = []
    for index, tiling in enumerate(state.tilings):
        sizes = [(words, tiling.input_buffers) for words in tiling.input_words]
        sizes.append((tiling.output_words, tiling.output_buffers))
        groups: list[list[str]] = []
        for which, (words, copies) in enumerate(sizes):
            its = [f"tile {index} {which} {copy}" for copy in range(copies if words else 0)]
            buffers += [Buffer(name, words, index, index) for name in its]
            groups.append(its)
        tiles.append(groups)
    addresses, used = place(buffers)
    if used > memory:
        return None
    return Homes(
        {name: addresses[name] for name in state.chip},
        state.tilings,
        tuple(tuple(tuple(addresses[name] for name in its) for its in groups) for groups in tiles),
    )
