"""A whole program on one sample: segments and CPU parts by those who run them, host operators here."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any

from numpy.typing import NDArray

from agent.overlay.graph import Host
from agent.overlay.host import run_host
from agent.overlay.program import Part, Program, ProgramStep, Segment

Arrays = Mapping[str, NDArray[Any]]
RunPart = Callable[[Part, Arrays], Arrays]
# Yields each segment with its inputs and is sent its outputs; what it returns are the program's outputs by name.
Walk = Generator[tuple[Segment, Arrays], Arrays, dict[str, NDArray[Any]]]


def walk(program: Program, inputs: Arrays, run_part: RunPart) -> Walk:
    """A sample's way through the program, which stands still at each segment. Tensors are as the source model holds
    them, with a batch of 1. Raises what ``run_part`` raises, and ProgramError for a host operator that cannot run."""
    held = dict(inputs)
    for step in program.steps:
        given = {name: held[name] for name in _inputs(step)}
        if isinstance(step, Segment):
            held.update((yield step, given))
        elif isinstance(step, Part):
            held.update(run_part(step, given))
        else:
            held.update(zip(step.outputs, run_host(step, list(given.values())), strict=True))
    return {spec.name: held[spec.name] for spec in program.outputs}


def execute(
    program: Program, inputs: Arrays, run_segment: Callable[[Segment, Arrays], Arrays], run_part: RunPart
) -> dict[str, NDArray[Any]]:
    """The program's outputs by name, one step after the other; see ``walk``.

    ``run_segment`` and ``run_part`` are given the inputs of their step and return its outputs. Raises what they raise.
    """
    going = walk(program, inputs, run_part)
    found: Arrays | None = None
    while True:
        try:
            segment, given = next(going) if found is None else going.send(found)
        except StopIteration as end:
            outputs: dict[str, NDArray[Any]] = end.value
            return outputs
        found = run_segment(segment, given)


def _inputs(step: ProgramStep) -> tuple[str, ...]:
    if isinstance(step, Segment):
        return tuple(binding.tensor.name for binding in step.inputs)
    return step.inputs if isinstance(step, Host) else step.foreign.inputs
