"""The engine: golden vectors, profiling, and where runs happen."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.devices.golden import compare
from agent.errors import DmaTimeout, GoldenMismatch, InferenceError, TensorError
from agent.hal import ModelFile, Run
from agent.serving.spec import Golden, WorkerSpec
from agent.serving.worker.engine import Engine
from agent.serving.worker.job import Job
from agent.types import Candidate, TensorSpec

X = TensorSpec("x", "FP32", (-1, 2))


class Doubler:
    """A session with made-up times."""

    inputs: tuple[TensorSpec, ...] = (X,)
    outputs: tuple[TensorSpec, ...] = (replace(X, name="y"),)

    def __init__(self, wall_s: float) -> None:
        self.wall_s = wall_s
        self.threads: list[int] = []
        self.running = 0

    def run(self, tensors: Mapping[str, Any]) -> Run:
        self.running += 1
        assert self.running == 1, "two runs at a time"
        self.threads.append(threading.get_ident())
        if (tensors["x"] < 0).any():
            self.running -= 1
            raise InferenceError("negative")
        self.running -= 1
        return Run({"y": 2 * tensors["x"]}, self.wall_s / 2, self.wall_s)

    def close(self) -> None:
        pass


def make_spec(root: Path, answers: Any) -> WorkerSpec:
    (root / "x").write_bytes(np.arange(6, dtype=np.float32).tobytes())
    (root / "y").write_bytes(np.array(answers, np.float32).tobytes())
    return WorkerSpec(
        "m", "1", "0" * 64, "local", root, Candidate("fp32", "none", "cpu"),
        ModelFile(root / "m", "onnx", Doubler.inputs, Doubler.outputs),
        Golden(3, {"x": root / "x"}, {"y": root / "y"}, 0.01, 0.0), 1000,
    )  # fmt: skip


def job(value: float, samples: int = 1, **options: Any) -> tuple[Job, asyncio.Future[Any]]:
    """A request and what it is told: the outputs or an error."""
    told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    tensors = {"x": np.full((samples, 2), value, np.float32)}
    options.setdefault("gone", lambda: False)
    return Job(tensors, samples, lambda outcome, *_: told.set_result(outcome), **options), told


async def ask(engine: Engine, value: float, **options: Any) -> Any:
    """As a worker asks: at once when runs are inline."""
    if engine.inline:
        return engine.run_now({"x": np.full((1, 2), value, np.float32)}).outputs
    request, told = job(value, **options)
    engine.submit(request)
    return await told


def test_runs_that_a_device_lets_wait_are_not_inline(tmp_path: Path) -> None:
    class Silent(Doubler):
        def run(self, tensors: Mapping[str, Any]) -> Run:
            if (tensors["x"] > 9).any():
                raise DmaTimeout("no interrupt within 1 s")
            return super().run(tensors)

    async def run() -> None:
        engine = Engine([Silent(0.0001)])
        await engine.check(make_spec(tmp_path, 2 * np.arange(6)))
        for harmless in (np.full((1, 2), -1.0, np.float32), np.full((1, 2), 1.0, np.float32)):
            with contextlib.suppress(InferenceError):
                engine.run_now({"x": harmless})
        assert engine.inline
        with pytest.raises(DmaTimeout):
            engine.run_now({"x": np.full((1, 2), 10.0, np.float32)})
        assert not engine.inline

    asyncio.run(run())


def test_short_runs_are_inline_and_long_ones_are_not(tmp_path: Path) -> None:
    async def run(wall_s: float) -> bool:
        engine = Engine([Doubler(wall_s)])
        assert not engine.inline
        await engine.check(make_spec(tmp_path, [0, 2, 4, 6, 8, 10]))
        return engine.inline

    assert asyncio.run(run(0.001))
    assert not asyncio.run(run(0.010))


def test_a_model_that_becomes_slow_leaves_the_loop(tmp_path: Path) -> None:
    async def run() -> None:
        session = Doubler(0.001)
        engine = Engine([session])
        await engine.check(make_spec(tmp_path, [0, 2, 4, 6, 8, 10]))
        session.wall_s = 0.5
        loop_thread = threading.get_ident()
        await ask(engine, 1.0)
        await ask(engine, 1.0)
        assert session.threads[-1] == loop_thread  # one slow run is no trend
        for _ in range(50):
            await ask(engine, 1.0)
        assert session.threads[-1] != loop_thread and not engine.inline

    asyncio.run(run())


def test_runs_in_the_thread_are_one_at_a_time_and_keep_their_errors(tmp_path: Path) -> None:
    async def run() -> None:
        session = Doubler(0.1)
        engine = Engine([session])
        one, negative, three = await asyncio.gather(*(ask(engine, value) for value in (1, -1, 3)))
        assert one["y"][0, 0] == 2 and three["y"][0, 0] == 6
        assert isinstance(negative, InferenceError)
        assert len(set(session.threads)) == 1 and threading.get_ident() not in session.threads

    asyncio.run(run())


def test_profile_gives_device_time(tmp_path: Path) -> None:
    async def run() -> None:
        engine = Engine([Doubler(0.002)])
        spec = make_spec(tmp_path, [0, 2, 4, 6, 8, 10])
        assert await engine.profile(spec, 60.0, 5) == [0.001] * 5
        assert await engine.profile(spec, 0.0, 5) == [0.001]
        assert engine.inline

    asyncio.run(run())


async def check(spec: WorkerSpec) -> None:
    await Engine([Doubler(0.001)]).check(spec)


def test_golden_mismatch_says_where_and_how_much(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, [0, 2, 4, 6, 8, 12])
    with pytest.raises(
        GoldenMismatch, match=r"sample 3 of 3: output 'y': 1 of 2 values differ, worst at \[0, 1\]"
    ):
        asyncio.run(check(spec))


def test_golden_files_must_fit_their_tensors(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, [0, 2, 4])
    with pytest.raises(TensorError, match="'y' has 12 bytes; 3 samples of FP32"):
        asyncio.run(check(spec))
    (tmp_path / "y").unlink()
    with pytest.raises(TensorError, match="No such file"):
        asyncio.run(check(spec))


@pytest.mark.parametrize(
    ("got", "want", "agrees"),
    [
        ([1.0, 2.0], [1.0, 2.0], True),
        ([1.05, 2.0], [1.0, 2.0], True),
        ([1.3, 2.0], [1.0, 2.0], False),
        ([1.0, 109.0], [1.0, 100.0], True),
        ([float("nan"), 1.0], [float("nan"), 1.0], True),
        ([float("nan"), 1.0], [1.0, 1.0], False),
        ([1.0, 1.0], [float("nan"), 1.0], False),
        ([float("inf"), 1.0], [float("inf"), 1.0], True),
        ([float("inf"), 1.0], [1.0, 1.0], False),
        ([1.0], [1.0, 1.0], False),
    ],
)
def test_tolerance(got: list[float], want: list[float], agrees: bool) -> None:
    problem = compare({"y": np.array(got)}, {"y": np.array(want)}, atol=0.1, rtol=0.1)
    assert (problem is None) == agrees


def test_integers_and_booleans_compare() -> None:
    big = np.array([2**62 + 1], np.int64)
    assert compare({"y": big}, {"y": big}, 0.0, 0.0) is None
    assert compare({"y": np.array([True])}, {"y": np.array([False])}, 0.0, 0.0) is not None
