"""Overlay programs as sessions, on an overlay or, by the golden model, on the CPU. Imports numpy."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from agent.devices.parts import open_part
from agent.devices.tensors import Found, agree, check_inputs
from agent.errors import InferenceError, ModelLoadError, OverlaidError, one_line
from agent.hal import ModelFile, Run
from agent.hal.device import Tensors
from agent.overlay.execute import RunPart, execute
from agent.overlay.functional import Layers, from_planes, to_planes
from agent.overlay.program import Part, Program, Segment
from agent.overlay.programfile import read_program
from agent.overlay.selftest import INPUT, OUTPUT, self_test_program
from agent.overlay.spec import Overlay
from agent.types import TensorSpec

Array = NDArray[Any]
Arrays = Mapping[str, Array]
SELF_TEST_ANSWER = [-28, 0, -10, 11, 90, 29, 8, 5, 12, -1]  # of the self-test's network


@dataclass(frozen=True, slots=True)
class Executed:
    """``outputs`` by sample, arrays as the source model holds them. ``parts``: seconds by kind of device, empty where
    there is one; ``wall_s``: of it all."""

    outputs: list[dict[str, Array]]
    device_s: float
    wall_s: float
    parts: Mapping[str, float]


class Engine(Protocol):
    """What runs the samples of one program."""

    def execute(self, samples: Sequence[Arrays], run_part: RunPart) -> Executed:
        """One after the other, or overlapping; ``run_part`` runs a CPU segment on one sample."""
        ...

    def close(self) -> None:
        """Free the program."""
        ...


class FunctionalEngine:
    """The golden model on this CPU: the overlay's bits in numpy."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._layers = {id(step): Layers(step.layers) for step in program.steps if isinstance(step, Segment)}

    def execute(self, samples: Sequence[Arrays], run_part: RunPart) -> Executed:
        """See ``Engine.execute``: device time is wall time."""
        started = time.perf_counter()
        found = [execute(self._program, sample, self.run, run_part) for sample in samples]
        wall_s = time.perf_counter() - started
        return Executed(found, wall_s, wall_s, {})

    def run(self, segment: Segment, tensors: Arrays) -> Arrays:
        """A segment's outputs."""
        planes = {b.tensor.name: to_planes(b.tensor, tensors[b.tensor.name]) for b in segment.inputs}
        found = self._layers[id(segment)].run(planes)
        return {b.tensor.name: from_planes(b.tensor, found[b.tensor.name]) for b in segment.outputs}

    def close(self) -> None:
        """See ``Engine.close``."""
        self._layers.clear()


class ProgramSession:
    """A program, sample after sample; see ``hal.Session``.

    What an engine runs on an overlay and on this CPU beside each other counts once in the device time. A program with
    CPU segments tells what it took of either: packing and unpacking are the CPU's. Of one without, they are part of
    the overlay's runs, which wait for them.
    """

    def __init__(
        self, model: ModelFile, open_engine: Callable[[Program], Engine], spec: Overlay | None = None
    ) -> None:
        """``spec``: the overlay that the program is to run on; None: the one that ships under its name.

        ProgramError for a file that is none, ModelLoadError; what ``open_engine`` raises.
        """
        program = self._program = _read(model, spec)
        strings = [tensor.name for tensor in (*program.inputs, *program.outputs) if tensor.dtype == "BYTES"]
        if strings:
            raise ModelLoadError(f"tensors {strings} hold strings; they are served from ONNX models only")
        self._free = {spec.name for spec in program.inputs if spec.dynamic}
        self.inputs = agree(model.inputs, [_found(spec) for spec in program.inputs], "input")
        self.outputs = agree(model.outputs, [_found(spec) for spec in program.outputs], "output")
        self._parts = {
            id(step): open_part(step, model.threads) for step in program.steps if isinstance(step, Part)
        }
        self._engine: Engine | None = open_engine(program)

    def run(self, tensors: Tensors) -> Run:
        """See ``hal.Session.run``."""
        engine = self._engine
        if engine is None:
            raise InferenceError("the session is closed; open the model again")
        check_inputs(self.inputs, tensors)
        batch = next((len(tensors[name]) for name in self._free), 1)
        started = time.perf_counter()
        done = engine.execute([self._sample(tensors, index) for index in range(batch)], self._run_part)
        outputs = {
            spec.name: np.concatenate([sample[spec.name] for sample in done.outputs])
            if batch > 1
            else done.outputs[0][spec.name]
            for spec in self.outputs
        }
        wall_s = time.perf_counter() - started
        beside_s = wall_s - done.wall_s
        parts = dict(done.parts) if self._parts else {}
        if parts:
            parts["cpu"] += beside_s
        return Run(outputs, done.device_s + beside_s, wall_s, parts)

    def close(self) -> None:
        """See ``hal.Session.close``."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def _sample(self, tensors: Tensors, index: int) -> Arrays:
        return {
            name: array[index : index + 1] if name in self._free else array for name, array in tensors.items()
        }

    def _run_part(self, part: Part, given: Arrays) -> Arrays:
        return self._parts[id(part)](given)


def open_functional(model: ModelFile) -> ProgramSession:
    """A session on this CPU, whichever overlay the program is for. See ``ProgramSession`` for errors."""
    return ProgramSession(model, FunctionalEngine)


def prove() -> str:
    """The version of numpy, once the golden model has answered the overlays' self-test; any exception otherwise."""
    try:
        self_test(FunctionalEngine)
    except InferenceError as error:
        raise InferenceError(f"numpy {np.__version__} {one_line(error)}; install another") from error
    return str(np.__version__)


def self_test(open_engine: Callable[[Program], Engine]) -> None:
    """Raises InferenceError when the engine answers the overlays' self-test wrongly, and what the engine raises."""
    program = self_test_program()
    (source,) = program.inputs
    pixels = np.arange(source.nbytes()) * 37 % 256 - 128
    engine = open_engine(program)
    try:
        done = engine.execute([{INPUT: pixels.astype(np.int8).reshape(source.shape)}], _no_part)
    finally:
        engine.close()
    found = done.outputs[0][OUTPUT].ravel().tolist()
    if found != SELF_TEST_ANSWER:
        raise InferenceError(f"computes the self-test wrongly: {found}")


def _no_part(_part: Part, given: Arrays) -> Arrays:
    return given  # the self-test has no CPU segments


def _read(model: ModelFile, spec: Overlay | None) -> Program:
    try:
        return read_program(model.path.read_bytes(), spec)
    except OSError as error:
        raise ModelLoadError(
            f"{model.path.name} cannot be read: {one_line(error)}; deploy it again"
        ) from error
    except OverlaidError as error:
        raise type(error)(
            f"overlaid does not load {model.path.name}: {error}, and pack a new version"
        ) from error


def _found(spec: TensorSpec) -> Found:
    return Found(spec.name, spec.dtype, tuple(None if size == -1 else size for size in spec.shape))
