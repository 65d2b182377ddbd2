"""Programs on an OpenCL device, with the bits of the golden model whatever their steps and however large the batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.devices.opencl.engine import MAX_CHUNK, OpenClEngine, chunk_limit
from agent.devices.opencl.lower import plan_segment
from agent.devices.opencl.plan import SegmentPlan, Traits
from agent.devices.opencl.platforms import ClDevice
from agent.devices.opencl.times import LayerTime, busy
from agent.devices.program import Executed, FunctionalEngine, ProgramSession
from agent.errors import InferenceError, TensorError
from agent.hal import ModelFile
from agent.overlay.compiler import compile_model
from agent.overlay.program import Program, Segment
from agent.overlay.programfile import write_program
from agent.overlay.spec import load_spec
from agent.types import TensorSpec
from tests.contract.tiny import npu_double
from tests.unit.overlay.test_overlap import chained, mixed, negate, samples

MODELS = Path(__file__).parents[4] / "models"
NETS = {"digits": "digits/digits-int8.onnx", "camera": "camera-digits/camera-digits-int8.onnx",
        "tflite": "camera-digits/camera-digits-int8.tflite"}  # fmt: skip


@pytest.fixture(scope="module")
def programs() -> dict[str, Program]:
    return {name: compile_model(MODELS / path, load_spec("npu")) for name, path in NETS.items()}


@contextmanager
def opened(made: Program, device: ClDevice, threads: int = 2, **options: Any) -> Iterator[OpenClEngine]:
    engine = OpenClEngine(made, device, threads, **options)
    try:
        yield engine
    finally:
        engine.close()


def random_samples(made: Program, count: int, seed: int = 1) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)

    def one(spec: TensorSpec) -> Any:
        shape = [abs(size) for size in spec.shape]
        if spec.dtype == "FP32":
            return rng.random(shape, np.float32)
        return rng.integers(-128, 128, shape, np.int8).view(spec.dtype.lower())

    return [{spec.name: one(spec) for spec in made.inputs} for _ in range(count)]


def plain(done: Executed) -> list[Any]:
    return [{name: (array.dtype, array.tolist()) for name, array in each.items()} for each in done.outputs]


def golden(made: Program, given: list[dict[str, Any]]) -> list[Any]:
    return plain(FunctionalEngine(made).execute(given, negate))


@pytest.mark.parametrize("net", NETS)
def test_nets_have_the_bits_of_the_golden_model_in_any_batch(
    programs: dict[str, Program], cpu: ClDevice, net: str
) -> None:
    made = programs[net]
    given = random_samples(made, 40)
    wanted = golden(made, given)
    with opened(made, cpu) as engine:
        for batch in (1, 3, 17, 40, 2):
            assert plain(engine.execute(given[:batch], negate)) == wanted[:batch]


@pytest.mark.parametrize("make", [mixed, chained])
def test_segments_and_cpu_parts_follow_each_other(make: Callable[[int], Program], cpu: ClDevice) -> None:
    made, given = make(3), samples(4, 40)
    wanted = golden(made, given)
    with opened(made, cpu) as engine:
        for batch in (1, 40, 17):
            assert plain(engine.execute(given[:batch], negate)) == wanted[:batch]


def test_kernels_for_gpus_give_the_same_bits(programs: dict[str, Program], cpu: ClDevice) -> None:
    made = programs["camera"]
    given = random_samples(made, 3)
    with opened(made, replace(cpu, kind="gpu")) as engine:
        assert plain(engine.execute(given, negate)) == golden(made, given)


def test_work_groups_are_no_larger_than_a_driver_allows_for_each_kernel(
    programs: dict[str, Program], cpu: ClDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = []

    def plan(segment: Segment, traits: Traits) -> SegmentPlan:
        planned.append(plan_segment(segment, traits))
        return planned[-1]

    monkeypatch.setattr("agent.devices.opencl.engine.plan_segment", plan)
    # No driver at hand allows a kernel fewer than its device.
    monkeypatch.setattr("agent.devices.opencl.engine.least_group", lambda _program, _handle: 7)
    made = programs["digits"]
    given = random_samples(made, 2)
    with opened(made, replace(cpu, kind="gpu")) as engine:
        assert plain(engine.execute(given, negate)) == golden(made, given)
    first, second = (max(math.prod(launch.local) for launch in each.launches) for each in planned)
    assert first > 7 >= second


def test_one_thread_is_one_compute_unit_with_the_same_bits(
    programs: dict[str, Program], cpu: ClDevice
) -> None:
    made = programs["digits"]
    given = random_samples(made, 2)
    with opened(made, cpu, threads=1) as engine:
        assert engine.units == 1
        assert plain(engine.execute(given, negate)) == golden(made, given)
    with opened(made, cpu, threads=1000) as engine:
        assert engine.units == cpu.units


def test_engines_beside_each_other_do_not_disturb_each_other(
    programs: dict[str, Program], cpu: ClDevice
) -> None:
    one, two = programs["digits"], programs["camera"]
    first, second = random_samples(one, 2), random_samples(two, 2)
    with opened(one, cpu) as engine, opened(two, cpu) as other:
        for _ in range(2):
            assert plain(engine.execute(first, negate)) == golden(one, first)
            assert plain(other.execute(second, negate)) == golden(two, second)
        other.close()
        assert plain(engine.execute(first, negate)) == golden(one, first)


def test_outputs_of_one_run_outlive_the_next_and_the_engine(
    programs: dict[str, Program], cpu: ClDevice
) -> None:
    made = programs["digits"]
    given = random_samples(made, 2)
    with opened(made, cpu) as engine:
        first = engine.execute(given[:1], negate)
        engine.execute(given[1:], negate)
    assert plain(first) == golden(made, given[:1])


@pytest.mark.parametrize("wrong", [np.zeros((1, 3, 4, 4), np.float32), np.zeros((1, 3, 4, 1), np.int8)])
def test_a_sample_that_does_not_fit_is_refused(cpu: ClDevice, wrong: NDArray[Any]) -> None:
    """Where steps of a damaged program do not agree on a tensor."""
    made, given = chained(1), samples(1, 2)
    with opened(made, cpu) as engine:
        with pytest.raises(TensorError, match=r"tensor 'x': wanted INT8 \[1, 3, 4, 4\], got"):
            engine.execute([given[0], {"x": wrong}], negate)
        assert plain(engine.execute(given, negate)) == golden(made, given)


def test_after_a_cpu_part_has_failed_runs_are_right_again(cpu: ClDevice) -> None:
    made, given = chained(1), samples(1, 40)
    calls = iter(range(100))

    def failing(part: Any, tensors: Any) -> Any:
        if next(calls) == 25:
            raise InferenceError("the part failed")
        return negate(part, tensors)

    with opened(made, cpu) as engine:
        with pytest.raises(InferenceError, match="the part failed"):
            engine.execute(given, failing)
        assert plain(engine.execute(given, negate)) == golden(made, given)


# -- times -------------------------------------------------------------------------------------------------------------


def test_a_profile_has_every_layer_once(programs: dict[str, Program], cpu: ClDevice) -> None:
    made = programs["camera"]
    layers = [layer.name for step in made.steps if isinstance(step, Segment) for layer in step.layers]
    with opened(made, cpu, profile=True) as engine:
        assert engine.last_profile() == []
        done = engine.execute(random_samples(made, MAX_CHUNK + 1), negate)
        found = engine.last_profile()
        short = engine.execute(random_samples(made, 1), negate)
        shorter = engine.last_profile()
    kinds = {"conv", "depthwise", "pool", "add"}
    assert [each.layer for each in found if each.kind in kinds] == layers
    assert {each.kind for each in found} <= kinds | {"layout", "transfer"}
    assert all(each.seconds > 0 for each in found if each.kind in kinds)
    assert 0 < total(found) < 2 * done.wall_s  # two lanes beside each other
    assert 0 < total(shorter) < short.wall_s  # of the last run alone


def total(times: list[LayerTime]) -> float:
    return sum(each.seconds for each in times)


def test_without_profiling_there_is_no_profile(programs: dict[str, Program], cpu: ClDevice) -> None:
    with opened(programs["digits"], cpu) as engine:
        engine.execute(random_samples(programs["digits"], 1), negate)
        assert engine.last_profile() == []


def test_a_program_with_cpu_parts_tells_what_it_takes_of_a_gpu(cpu: ClDevice) -> None:
    made, given = mixed(1), samples(1, 20)
    for device, kinds in ((cpu, set()), (replace(cpu, kind="gpu"), {"gpu", "cpu"})):
        with opened(made, device) as engine:
            done = engine.execute(given, negate)
        assert done.device_s == done.wall_s > 0
        assert done.parts.keys() == kinds
        assert all(0 < spent < done.wall_s for spent in done.parts.values())
        assert sum(done.parts.values()) == pytest.approx(done.wall_s if kinds else 0)


def test_spans_that_overlap_count_once() -> None:
    assert busy([]) == 0
    assert busy([(5, 10), (0, 6), (20, 30), (22, 25)]) == pytest.approx(20e-9)


# -- sizes and sessions ------------------------------------------------------------------------------------------------


def test_chunks_take_half_of_the_devices_memory_at_most() -> None:
    plan = SegmentPlan((1000, 100), (b"x" * 500,), (), (), ())
    for chunk in range(1, MAX_CHUNK + 1):
        needed = 500 + 2 * chunk * 1100
        assert chunk_limit([plan], 2 * needed, 1 << 20) == (chunk, 2)
    assert chunk_limit([plan], 1 << 30, 1 << 20) == (MAX_CHUNK, 2)
    assert chunk_limit([plan], 1 << 30, 3999) == (3, 2)
    assert chunk_limit([plan], 2000, 1 << 20) == (1, 1)
    assert chunk_limit([], 2000, 1 << 20) == (MAX_CHUNK, 2)


def test_a_session_on_a_program_file(programs: dict[str, Program], cpu: ClDevice, tmp_path: Path) -> None:
    made = programs["digits"]
    path = tmp_path / "digits.npu"
    path.write_bytes(write_program(made))
    model = ModelFile(path, "npu", made.inputs, made.outputs, threads=1, cache=tmp_path)

    def engine(program: Program) -> OpenClEngine:
        return OpenClEngine(program, cpu, model.threads, model.cache)

    images = np.load(MODELS / "digits" / "golden" / "image.npy")[:20]
    wanted = ProgramSession(model, FunctionalEngine).run({"image": images}).outputs["logits"]
    for _ in range(2):
        session = ProgramSession(model, engine)
        assert np.array_equal(session.run({"image": images}).outputs["logits"], wanted)
        session.close()
        with pytest.raises(InferenceError, match="closed"):
            session.run({"image": images})
    assert len(list(tmp_path.glob("opencl/*.clbin"))) == 1


def test_a_session_on_a_program_with_a_cpu_segment(cpu: ClDevice, tmp_path: Path) -> None:
    path = tmp_path / "double.npu"
    path.write_bytes(npu_double())
    x, y = (TensorSpec(name, "FP32", (-1, 4)) for name in "xy")
    gpu = replace(cpu, kind="gpu")
    session = ProgramSession(ModelFile(path, "npu", (x,), (y,)), lambda made: OpenClEngine(made, gpu, 1))
    numbers = np.arange(24, dtype=np.float32).reshape(6, 4)
    done = session.run({"x": numbers})
    session.close()
    assert done.outputs["y"].tolist() == (2 * numbers).tolist()
    assert done.parts.keys() == {"gpu", "cpu"}
    assert sum(done.parts.values()) == pytest.approx(done.wall_s)
