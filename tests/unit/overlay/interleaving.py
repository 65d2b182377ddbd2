"""Chains executed in every order that their semaphores allow: what must not happen, found without the compiler's help.

What a descriptor touches is worked out here from its fields, address by address.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from agent.overlay.descriptor import decode
from agent.overlay.spec import DESCRIPTOR_BYTES, Overlay

ENGINES = ("LOAD", "COMPUTE", "STORE")
DEPTH = 8  # of each engine's queue
IN_FLIGHT = 7  # descriptors of one engine that have started and not finished

Place = tuple[str, int]  # a memory or region, and a word or row of it


@dataclass(frozen=True)
class Step:
    """A descriptor: its fields, its engine, and the places that it touches."""

    fields: dict[str, int]
    engine: str
    reads: frozenset[Place]
    writes: frozenset[Place]
    drain: bool


def steps(spec: Overlay, chain: bytes) -> list[Step]:
    """The descriptors up to END."""
    names = {code: name for name, code in spec.opcodes.items()}
    found: list[Step] = []
    for at in range(0, len(chain), DESCRIPTOR_BYTES):
        fields = decode(spec, chain[at : at + DESCRIPTOR_BYTES])
        name = names[fields["opcode"]]
        if name == "END":
            return found
        touch = _transfer if name in ("LOAD", "STORE") else _compute
        reads, writes = touch(spec, name, fields)
        drain = name not in ("LOAD", "STORE") and bool(fields["flags"] & spec.flags["DRAIN"])
        found.append(Step(fields, name if name in ("LOAD", "STORE") else "COMPUTE", reads, writes, drain))
    raise AssertionError("the chain has no END")


def _transfer(spec: Overlay, name: str, fields: dict[str, int]) -> tuple[frozenset[Place], frozenset[Place]]:
    words = spec.lanes
    pairs = list(itertools.product(range(fields["runs"]), range(fields["words"])))
    ddr = frozenset(
        (f"region{fields['region']}", (fields["offset"] + run * fields["region_step"]) // words + word)
        for run, word in pairs
    )
    on_chip = [fields["chip"] + run * fields["chip_step"] + word for run, word in pairs]
    if name == "LOAD" and fields["flags"] & spec.flags["WEIGHTS"]:
        return ddr, frozenset(("weights", word // 2) for word in on_chip)
    chip = frozenset(("chip", word) for word in on_chip)
    return (ddr, chip) if name == "LOAD" else (chip, ddr)


def _compute(spec: Overlay, name: str, fields: dict[str, int]) -> tuple[frozenset[Place], frozenset[Place]]:
    chip = set(_read_words(spec, name, fields))
    passes = fields["count_b"] * fields["count_c"] * fields["count_d"]
    rows = {
        "CONV": fields["count_a"] * (spec.parameter_rows + passes * spec.pass_rows),
        "DEPTHWISE": fields["count_a"] * (spec.parameter_rows + spec.depthwise_rows),
        "POOL": spec.parameter_rows,
        "ADD": 0,
    }[name]
    weights = {("weights", fields["weight_row"] + row) for row in range(rows)}
    written: set[Place] = set()
    if not fields["flags"] & spec.flags["PARTIAL"]:
        for block in range(fields["count_a"]):
            first = fields["out_base"] + block * fields["out_step"]
            written |= {("chip", first + word) for word in range(_outputs(name, fields))}
    return frozenset({("chip", word) for word in chip} | weights), frozenset(written)


def _outputs(name: str, fields: dict[str, int]) -> int:
    if name == "CONV":
        return fields["count_e"] * fields["count_f"]
    if name == "POOL":
        return fields["count_b"] * fields["count_c"]
    if name == "ADD":
        return fields["count_e"]
    rows = (fields["count_e"] - 3) // fields["stride_y"] + 1
    return rows * ((fields["count_f"] - 3) // fields["stride_x"] + 1)


def _read_words(spec: Overlay, name: str, fields: dict[str, int]) -> Iterator[int]:
    packed = fields["flags"] & spec.flags["PACKED"] and name == "CONV"
    counts = [range(fields[f"count_{loop}"]) for loop in "abcdef"]
    for a, b, c, d, e, f in itertools.product(*counts):
        y = fields["y0"] + b * fields["y_b"] + e * fields["y_e"]
        x = fields["x0"] + c * fields["x_c"] + f * fields["x_f"]
        if name != "ADD" and not (0 <= y < fields["in_h"] and 0 <= x < fields["in_w"]):
            continue
        where = fields["in_base"] + sum(
            index * fields[f"step_{loop}"] for index, loop in zip((a, b, c, d, e, f), "abcdef", strict=True)
        )
        if not packed:
            yield where
            continue
        quads = spec.lanes // 4
        yield where // quads
        if where % quads:
            yield where // quads + 1


class Violation(AssertionError):
    """A descriptor started too early, or never."""


def run_anyhow(chain: list[Step], seed: int, slow: int | None = None) -> None:
    """One execution in an order that chance chooses among those that the core may take. Raises Violation.

    ``slow``: a descriptor that finishes only when nothing else can go on.
    """
    _Execution(chain, slow).run(random.Random(seed))


class _Execution:
    """What is dispatched, in flight and finished."""

    def __init__(self, chain: list[Step], slow: int | None) -> None:
        self._chain, self._slow = chain, slow
        self._conflicts = _conflicts(chain)
        self._semaphores = [0] * 8
        self._queues: dict[str, list[int]] = {engine: [] for engine in ENGINES}
        self._flying: dict[str, list[int]] = {engine: [] for engine in ENGINES}
        self._finished: set[int] = set()
        self._dispatched = 0

    def run(self, chance: random.Random) -> None:
        while len(self._finished) < len(self._chain):
            moves = list(self._moves())
            if not moves:
                raise Violation(
                    f"after {len(self._finished)} descriptors of {len(self._chain)} none can go on"
                )
            others = [move for move in moves if not self._is_slow(*move)]
            what, engine = chance.choice(others or moves)
            {"dispatch": self._dispatch, "start": self._start, "finish": self._finish}[what](engine)
        if any(self._semaphores):
            raise Violation(f"signals are left: {self._semaphores}")

    def _moves(self) -> Iterator[tuple[str, str]]:
        chain, dispatched = self._chain, self._dispatched
        if dispatched < len(chain) and len(self._queues[chain[dispatched].engine]) < DEPTH:
            yield "dispatch", chain[dispatched].engine
        for engine in ENGINES:
            if self._flying[engine]:
                yield "finish", engine
            if self._queues[engine] and self._can_start(engine):
                yield "start", engine

    def _can_start(self, engine: str) -> bool:
        head, flying = self._chain[self._queues[engine][0]], self._flying[engine]
        there = all(self._semaphores[index] for index in _bits(head.fields["wait"]))
        return there and len(flying) < IN_FLIGHT and not (head.drain and flying)

    def _is_slow(self, what: str, engine: str) -> bool:
        return what == "finish" and self._flying[engine][0] == self._slow

    def _dispatch(self, engine: str) -> None:
        self._queues[engine].append(self._dispatched)
        self._dispatched += 1

    def _start(self, engine: str) -> None:
        index = self._queues[engine].pop(0)
        for semaphore in _bits(self._chain[index].fields["wait"]):
            self._semaphores[semaphore] -= 1
        early = [other for other in self._conflicts[index] if other not in self._finished]
        if early:
            raise Violation(f"descriptor {index} starts before {early[0]}, which it depends on, has finished")
        self._flying[engine].append(index)

    def _finish(self, engine: str) -> None:
        index = self._flying[engine].pop(0)
        self._finished.add(index)
        for semaphore in _bits(self._chain[index].fields["signal"]):
            self._semaphores[semaphore] += 1


def _bits(mask: int) -> list[int]:
    return [index for index in range(8) if mask >> index & 1]


def _conflicts(chain: list[Step]) -> list[list[int]]:
    """For each descriptor the earlier ones that must have finished before it starts."""
    found = []
    for index, step in enumerate(chain):
        its = []
        for other, earlier in enumerate(chain[:index]):
            results = (step.reads | step.writes) & earlier.writes
            overwrites = step.writes & earlier.reads
            if step.engine == earlier.engine:
                # An engine's accesses are in order; only results are late, behind the pipeline of compute.
                if step.engine == "COMPUTE" and results:
                    its.append(other)
            elif results or overwrites:
                its.append(other)
        found.append(its)
    return found
