"""Runs that answer several requests: timed, and refused where answers would depend on each other."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.errors import InferenceError
from agent.hal import ModelFile, Run
from agent.serving.arrivals import arrivals
from agent.serving.spec import Golden, WorkerSpec
from agent.serving.worker.checks import GoldenData
from agent.serving.worker.measure import MIN_RUNS, batch_times, open_loop
from agent.types import Candidate, TensorSpec

X = TensorSpec("x", "FP32", (-1, 8))


class Scaler:
    """y = 2 x; a run takes ``run_s`` and ``sample_s`` a sample. ``blend``: how much of the others is in an answer."""

    inputs: tuple[TensorSpec, ...] = (X,)
    outputs: tuple[TensorSpec, ...] = (replace(X, name="y"),)

    def __init__(self, run_s: float = 0.01, sample_s: float = 0.001, blend: float = 0.0) -> None:
        self.run_s, self.sample_s, self.blend = run_s, sample_s, blend

    def run(self, tensors: Mapping[str, Any]) -> Run:
        x = tensors["x"]
        seconds = self.run_s + self.sample_s * len(x)
        return Run({"y": 2 * x + self.blend * (x.mean(axis=0) - x)}, seconds, seconds)

    def close(self) -> None:
        pass


def make_spec(root: Path, count: int = 1) -> WorkerSpec:
    x = np.arange(8 * count, dtype=np.float32)
    (root / "x").write_bytes(x.tobytes())
    (root / "y").write_bytes((2 * x).tobytes())
    return WorkerSpec(
        "m", "1", "0" * 64, "local", root, Candidate("fp32", "none", "cpu"),
        ModelFile(root / "m", "onnx", Scaler.inputs, Scaler.outputs),
        Golden(count, {"x": root / "x"}, {"y": root / "y"}, 0.01, 0.0), 1000,
    )  # fmt: skip


def test_every_size_is_timed(tmp_path: Path) -> None:
    times = batch_times(Scaler(), make_spec(tmp_path), 0.05, 1.0)
    assert {size: round(runs[0], 6) for size, runs in times.items()} == {
        1: 0.011,
        2: 0.012,
        4: 0.014,
        8: 0.018,
    }
    assert all(len(runs) >= MIN_RUNS for runs in times.values())


def test_a_size_that_takes_too_long_is_the_last(tmp_path: Path) -> None:
    assert list(batch_times(Scaler(), make_spec(tmp_path), 0.05, 0.0115)) == [1, 2]


def test_no_size_is_begun_when_the_time_is_over(tmp_path: Path) -> None:
    assert list(batch_times(Scaler(), make_spec(tmp_path), 0.0, 1.0)) in ([], [1])


@pytest.mark.parametrize("count", [1, 3])
def test_samples_that_change_each_others_answers_are_noticed(tmp_path: Path, count: int) -> None:
    with pytest.raises(InferenceError, match="depend on what else is in the run"):
        batch_times(Scaler(blend=0.1), make_spec(tmp_path, count), 0.05, 1.0)


def test_a_fixed_first_dimension_cannot_be_joined(tmp_path: Path) -> None:
    session = Scaler()
    session.outputs = (TensorSpec("y", "FP32", (1, 8)),)
    with pytest.raises(InferenceError, match="first dimension"):
        batch_times(session, make_spec(tmp_path), 0.05, 1.0)


def test_an_open_loop_idles_between_requests(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, 3)
    golden = GoldenData(spec.golden, spec.file)
    runs = open_loop(Scaler(), golden, 0.2, 100.0, 7)
    assert [arrival for arrival, _ in runs] == arrivals(0.2, 100.0, 7)
    assert {round(run.device_s, 6) for _, run in runs} == {0.011}
    assert not any(run.outputs for _, run in runs)
    assert open_loop(Scaler(), golden, 0.01, 0.001, 7) == []


def test_an_open_loop_that_cannot_keep_up_ends(tmp_path: Path) -> None:
    class Slow(Scaler):
        def run(self, tensors: Mapping[str, Any]) -> Run:
            time.sleep(0.01)
            return super().run(tensors)

    spec = make_spec(tmp_path)
    runs = open_loop(Slow(), GoldenData(spec.golden, spec.file), 0.02, 5000.0, 7)
    assert len(runs) <= 6
