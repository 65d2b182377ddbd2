"""What a variant's answers are compared with: the float model's, or those of an INT8 model itself."""

from __future__ import annotations

from dataclasses import dataclass

from agent.errors import UsageError
from agent.fleet.prepare.executing import answers, exact_answers
from agent.fleet.prepare.quality import real
from agent.fleet.prepare.values import Arrays, Dataset, Progress, Source


@dataclass(frozen=True, slots=True)
class Baseline:
    """``answers``: in real numbers, by the names of the model's outputs."""

    name: str
    answers: Arrays


def find_baseline(source: Source, reference: Source | None, samples: Dataset, progress: Progress) -> Baseline:
    """UsageError when ``reference`` is no float model of the same task."""
    if not source.quantised:
        if reference is not None:
            raise UsageError(
                "--reference is for a MODEL that is INT8 already; this one is float itself: leave it out"
            )
        progress("running the float model", 0.0)
        return Baseline(
            "the float model", exact_answers(source.model, source.inputs, source.outputs, samples)
        )
    if reference is None:
        found = answers(source.model, source.format, source.inputs, source.outputs, samples, progress)
        return Baseline("the INT8 model itself", real(found, source.steps))
    _check_same(source, reference)
    inputs = real(samples.inputs, source.steps)
    names = dict(zip((spec.name for spec in source.inputs), reference.inputs, strict=True))
    given = {
        spec.name: inputs[name].astype("float32").reshape(samples.count, *spec.concrete())
        for name, spec in names.items()
    }
    progress("running the reference", 0.0)
    found = exact_answers(
        reference.model, reference.inputs, reference.outputs, Dataset(given, None, samples.origin)
    )
    pairs = zip(source.outputs, reference.outputs, strict=True)
    return Baseline(
        f"the float model {reference.name}",
        {spec.name: found[other.name].reshape(samples.count, *spec.concrete()) for spec, other in pairs},
    )


def _check_same(source: Source, reference: Source) -> None:
    if reference.quantised:
        raise UsageError(
            f"--reference {reference.name} is INT8 itself; name the float model that MODEL was made from"
        )
    shapes = [
        [tuple(spec.concrete()) for spec in specs]
        for specs in (source.inputs, reference.inputs, source.outputs, reference.outputs)
    ]
    if shapes[0] != shapes[1] or shapes[2] != shapes[3]:
        raise UsageError(
            f"--reference {reference.name} takes {shapes[1]} and gives {shapes[3]}, MODEL takes {shapes[0]} and gives "
            f"{shapes[2]}; name the float model that MODEL was made from"
        )
