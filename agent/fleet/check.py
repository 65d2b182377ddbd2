"""Before a package is signed: does every variant load here, and does it answer its golden vectors?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent.devices.cpu import BACKENDS, CpuDevice
from agent.devices.golden import compare, worst_difference
from agent.errors import DeviceError, GoldenMismatch, RuntimeUnavailable
from agent.fleet.source import Array, ModelFolder, SourceVariant
from agent.hal import ModelFile, Session


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far from the golden outputs a variant's answers were, at most."""

    backend: str
    samples: int
    worst_difference: float


def check_variant(
    folder: ModelFolder,
    variant: SourceVariant,
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array],
    progress: Callable[[float], None],
) -> Agreement:
    """Load a variant on this machine's CPU and run every golden sample.

    Raises RuntimeUnavailable (what to install), ModelLoadError (corrupt, or its tensors are not those of model.toml),
    GoldenMismatch, TensorError, InferenceError; each names the variant.
    """
    backend = next(name for name, each in BACKENDS.items() if variant.format in each.formats)
    file = ModelFile(folder.file(variant.file), variant.format, folder.toml.inputs, folder.toml.outputs)
    try:
        session = CpuDevice().open(file, backend)
        try:
            worst = _run_samples(session, variant, inputs, outputs, progress)
        finally:
            session.close()
    except RuntimeUnavailable as error:
        install = (
            "" if "pip install" in str(error) else f"; pip install 'overlaid[{BACKENDS[backend].extra}]'"
        )
        raise RuntimeUnavailable(
            f"variant {variant.name} cannot be checked here: {error}{install}, or pack with --no-check"
        ) from error
    except DeviceError as error:
        raise type(error)(f"variant {variant.name}: {error}") from error
    return Agreement(backend, folder.toml.golden.count, worst)


def _run_samples(
    session: Session,
    variant: SourceVariant,
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array],
    progress: Callable[[float], None],
) -> float:
    count = len(next(iter(inputs.values())))
    worst = 0.0
    for sample in range(count):
        run = session.run({name: array[sample, ...] for name, array in inputs.items()})
        want = {name: array[sample, ...] for name, array in outputs.items()}
        problem = compare(run.outputs, want, variant.golden.atol, variant.golden.rtol)
        if problem is not None:
            raise GoldenMismatch(
                f"variant {variant.name}: sample {sample}, {problem}; make the golden vectors again or raise atol/rtol "
                "in model.toml"
            )
        worst = max(worst, worst_difference(run.outputs, want))
        progress((sample + 1) / count)
    return worst
