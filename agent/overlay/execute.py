"""A whole program on one sample: segments and CPU parts by those who run them, host operators here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from agent.errors import ProgramError
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
        given = {name: held[name] for name in step_inputs(step)}
        if isinstance(step, Segment):
            held.update(run_segment(step, given))
        elif isinstance(step, Part):
            held.update(run_part(step, given))
        else:
            held.update(zip(step.outputs, run_host(step, list(given.values())), strict=True))
    return {spec.name: held[spec.name] for spec in program.outputs}


def check_flow(program: Program) -> None:
    """ProgramError when a step, or the program's outputs, want a tensor that nothing has made."""
    there = {spec.name for spec in program.inputs}
    for number, step in enumerate(program.steps):
        _check_there(there, step_inputs(step), f"step {number}")
        there.update(step_outputs(step))
    _check_there(there, tuple(spec.name for spec in program.outputs), "the outputs")


def step_inputs(step: ProgramStep) -> tuple[str, ...]:
    """Names of the tensors that a step takes."""
    if isinstance(step, Segment):
        return tuple(binding.tensor.name for binding in step.inputs)
    return step.inputs if isinstance(step, Host) else step.foreign.inputs


def step_outputs(step: ProgramStep) -> tuple[str, ...]:
    """Names of the tensors that a step makes."""
    if isinstance(step, Segment):
        return tuple(binding.tensor.name for binding in step.outputs)
    return step.outputs if isinstance(step, Host) else step.foreign.outputs


def _check_there(there: set[str], wanted: tuple[str, ...], who: str) -> None:
    missing = [name for name in wanted if name not in there]
    if missing:
        raise ProgramError(
            f"{who} of the program wants tensor {missing[0]!r}, which no step before it makes: the program is corrupt, "
            "deploy it again"
        )
