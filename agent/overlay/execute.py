"""A whole program on one sample: segments and CPU parts by those who run them, host operators here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from agent.overlay.graph import Host
from agent.overlay.host import run_host
from agent.overlay.program import Part, Program, ProgramStep, Segment

Arrays = Mapping[str, NDArray[Any]]


def execute(
    program: Program,
    inputs: Arrays,
    run_segment: Callable[[Segment, Arrays], Arrays],
    run_part: Callable[[Part, Arrays], Arrays],
) -> dict[str, NDArray[Any]]:
    """The program's outputs by name. Tensors are as the source model holds them, with a batch of 1.

    ``run_segment`` and ``run_part`` are given the inputs of their step and return its outputs. Raises what they raise,
    and ProgramError for a host operator that cannot run.
    """
    held = dict(inputs)
    for step in program.steps:
        given = {name: held[name] for name in _inputs(step)}
        if isinstance(step, Segment):
            held.update(run_segment(step, given))
        elif isinstance(step, Part):
            held.update(run_part(step, given))
        else:
            held.update(zip(step.outputs, run_host(step, list(given.values())), strict=True))
    return {spec.name: held[spec.name] for spec in program.outputs}


def _inputs(step: ProgramStep) -> tuple[str, ...]:
    if isinstance(step, Segment):
        return tuple(binding.tensor.name for binding in step.inputs)
    return step.inputs if isinstance(step, Host) else step.foreign.inputs
