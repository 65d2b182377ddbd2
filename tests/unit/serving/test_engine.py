"""The engine: golden vectors, profiling, and where runs happen."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.devices.golden import compare
from agent.errors import DmaTimeout, GoldenMismatch, InferenceError, TensorError
from agent.hal import ModelFile, Run
from agent.histogram import Histogram
from agent.serving.http.messages import RequestError
from agent.serving.spec import Golden, WorkerSpec
from agent.serving.worker.checks import GoldenData
from agent.serving.worker.engine import Engine
from agent.serving.worker.job import Job
from agent.serving.worker.queue import MAX_WAITING
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


def test_far_more_samples_than_usual_leave_the_loop(tmp_path: Path) -> None:
    async def run() -> None:
        session = Doubler(0.001)
        engine = Engine([session])
        await engine.check(make_spec(tmp_path, [0, 2, 4, 6, 8, 10]))
        loop_thread = threading.get_ident()
        assert engine.inline and engine.brief(5) and not engine.brief(6)
        for samples, on_loop in ((1, True), (100, False), (2, True)):
            request, told = job(1.0, samples)
            engine.submit(request)
            await told
            assert (session.threads[-1] == loop_thread) is on_loop
        for _ in range(100):  # what is usual is short again
            engine.run_now({"x": np.ones((100, 2), np.float32)}, 100)
        assert engine.brief(100)

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


class Gated(Doubler):
    """Runs on a thread wait until they are let go; ``seen``: the first values of each run, in order."""

    def __init__(self, wall_s: float = 0.01) -> None:
        super().__init__(wall_s)
        self.gate = threading.Semaphore(0)
        self.seen: list[list[float]] = []

    def run(self, tensors: Mapping[str, Any]) -> Run:
        self.seen.append(tensors["x"][:, 0].tolist())
        assert self.gate.acquire(timeout=10)
        return super().run(tensors)


async def slow_engine(root: Path, *sessions: Gated, max_batch: int = 1) -> Engine:
    """An engine whose runs are known to take 10 ms."""
    engine = Engine(sessions, max_batch)
    sessions[0].gate.release(3)
    await engine.check(make_spec(root, [0, 2, 4, 6, 8, 10]))
    sessions[0].seen.clear()
    return engine


async def until(condition: Callable[[], Any]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("it did not come to that")


def test_who_waits_is_served_by_priority_then_arrival(tmp_path: Path) -> None:
    async def run() -> None:
        session = Gated()
        engine = await slow_engine(tmp_path, session)
        told = []
        for value, priority in ((1, 0), (2, 0), (3, 5), (4, 1), (5, 0), (6, 5)):
            request, answer = job(value, priority=priority)
            engine.submit(request)
            told.append(answer)
        session.gate.release(6)
        answers = await asyncio.gather(*told)
        assert [outputs["y"][0, 0] for outputs in answers] == [2, 4, 6, 8, 10, 12]
        assert session.seen == [[1], [4], [3], [6], [2], [5]]  # the first one ran already

    asyncio.run(run())


def test_deadlines_are_kept_while_a_run_goes_on(tmp_path: Path) -> None:
    async def run() -> None:
        session = Gated()
        engine = await slow_engine(tmp_path, session)
        waits = [job(1.0, timeout_s=0.05), job(2.0, timeout_s=0.1), job(3.0)]
        for request, _ in waits:
            engine.submit(request)
        (_, running), (_, waiting), (_, last) = waits
        for late in (await running, await waiting):
            assert isinstance(late, RequestError) and late.status == 504 and "deadline" in str(late)
        assert session.seen == [[1]] and not last.done()  # the run that was begun goes on
        session.gate.release(2)
        assert (await last)["y"][0, 0] == 6
        assert session.seen == [[1], [3]]

    asyncio.run(run())


def test_too_many_are_turned_away_and_a_client_that_left_makes_room(tmp_path: Path) -> None:
    async def run() -> None:
        session = Gated(0.02)
        engine = await slow_engine(tmp_path, session)
        left = set()

        def request(number: int) -> tuple[Job, asyncio.Future[Any]]:
            return job(float(number), gone=lambda: number in left)

        told = []
        for number in range(1 + MAX_WAITING):
            waiting, answer = request(number)
            engine.submit(waiting)
            told.append(answer)
        with pytest.raises(RequestError, match="64 requests wait") as caught:
            engine.submit(request(99)[0])
        assert caught.value.status == 503 and caught.value.headers["Retry-After"] == "2"
        left |= {7, 8}
        late, answer = request(100)
        engine.submit(late)
        session.gate.release(1000)
        assert (await answer)["y"][0, 0] == 200
        assert [value for (value,) in session.seen] == [*range(7), *range(9, 65), 100]
        assert not told[7].done() and not told[8].done()

    asyncio.run(run())


@pytest.mark.parametrize(("max_batch", "seen"), [(1, [[1], [3], [5]]), (4, [[1], [3, 5]])])
def test_a_client_that_left_is_not_run_for(tmp_path: Path, max_batch: int, seen: list[list[float]]) -> None:
    async def run() -> None:
        session = Gated()
        engine = await slow_engine(tmp_path, session, max_batch=max_batch)
        left = {4.0}
        requests = [job(value, gone=lambda value=value: value in left) for value in (1.0, 2.0, 3.0, 4.0, 5.0)]
        for request, _ in requests:
            engine.submit(request)
        engine.cancel(requests[1][0])
        engine.cancel(requests[0][0])  # its run goes on, nobody hears of it
        session.gate.release(5)
        assert (await requests[4][1])["y"][0, 0] == 10
        assert session.seen == seen
        assert [told.done() for _, told in requests] == [False, False, True, False, True]

    asyncio.run(run())


def test_instances_run_at_the_same_time_each_with_its_session(tmp_path: Path) -> None:
    async def run() -> None:
        sessions = [Gated(), Gated(), Gated()]
        engine = await slow_engine(tmp_path, *sessions)
        told = []
        for value in range(4):
            request, answer = job(float(value))
            engine.submit(request)
            told.append(answer)
        await until(lambda: sum(len(session.seen) for session in sessions) == 3)
        assert [session.seen for session in sessions] == [[[0]], [[1]], [[2]]]
        sessions[1].gate.release(2)
        assert (await told[1])["y"][0, 0] == 2 and (await told[3])["y"][0, 0] == 6
        assert not told[0].done() and not told[2].done()
        for session in sessions:
            session.gate.release()
        await asyncio.gather(*told)

    asyncio.run(run())


@pytest.mark.parametrize("wall_s", [0.0001, 0.1], ids=["loop", "thread"])
@pytest.mark.parametrize("max_batch", [1, 4])
def test_what_a_failed_run_was_given_is_freed_at_once(tmp_path: Path, wall_s: float, max_batch: int) -> None:
    class Failing(Doubler):
        def run(self, tensors: Mapping[str, Any]) -> Run:
            try:
                return super().run(tensors)
            except InferenceError as error:
                raise InferenceError("failed") from error

    async def run() -> None:
        engine = Engine([Failing(wall_s)], max_batch)
        await engine.check(make_spec(tmp_path, [0, 2, 4, 6, 8, 10]))
        requests, told = zip(*(job(value) for value in (-1.0, -2.0, 3.0)), strict=True)
        given = [weakref.ref(request.tensors["x"]) for request in requests]
        for request in requests:
            engine.submit(request)
        assert [type(await answer) for answer in told] == [InferenceError, InferenceError, dict]
        del request, requests, told
        await engine.check(make_spec(tmp_path, [0, 2, 4, 6, 8, 10]))  # the thread has let go of them, too
        assert [array() for array in given] == [None] * 3

    gc.disable()
    try:
        asyncio.run(run())
    finally:
        gc.enable()


def test_an_instance_that_gets_no_thread_is_free_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def run() -> None:
        sessions = [Gated(), Gated()]
        engine = await slow_engine(tmp_path, *sessions)
        first, told = job(0.0)
        engine.submit(first)
        with monkeypatch.context() as scarce:
            scarce.setattr(threading.Thread, "start", no_thread)
            second, failed = job(1.0)
            engine.submit(second)
            assert "can't start new thread" in str(await failed)
        third, answered = job(2.0)
        engine.submit(third)
        sessions[1].gate.release()
        assert (await answered)["y"][0, 0] == 4 and not told.done()
        sessions[0].gate.release()
        await told

    asyncio.run(run())


def test_a_run_takes_several_that_wait_and_a_bad_one_spoils_it_for_nobody(tmp_path: Path) -> None:
    async def run() -> None:
        session = Gated()
        engine = await slow_engine(tmp_path, session, max_batch=4)
        session.gate.release(1000)
        requests = [job(1.0), job(2.0, 2), job(3.0), job(4.0), job(-5.0), job(6.0)]
        session.gate = threading.Semaphore(0)
        for request, _ in requests:
            engine.submit(request)
        await until(lambda: session.seen)
        session.gate.release(1000)
        answers = await asyncio.gather(*(told for _, told in requests))
        assert session.seen == [[1], [2, 2, 3, 4], [-5, 6], [-5], [6]]
        assert isinstance(answers.pop(4), InferenceError)
        assert [answer["y"].tolist() for answer in answers] == [
            [[2, 2]], [[4, 4], [4, 4]], [[6, 6]], [[8, 8]], [[12, 12]],
        ]  # fmt: skip
        counted = engine.statistics.entry("m", "1")
        assert [(entry["batch_size"], entry["compute_infer"]["count"]) for entry in counted["batch_stats"]] == [
            (1, 1), (2, 1), (4, 1),
        ]  # fmt: skip

    asyncio.run(run())


def test_short_runs_are_joined_on_the_loop(tmp_path: Path) -> None:
    async def run() -> None:
        session = Doubler(0.001)
        engine = Engine([session], max_batch=8)
        await engine.check(make_spec(tmp_path, [0, 2, 4, 6, 8, 10]))
        before, requests = len(session.threads), [job(float(value)) for value in range(12)]
        for request, _ in requests:
            engine.submit(request)
        answers = await asyncio.gather(*(told for _, told in requests))
        assert [answer["y"][0, 0] for answer in answers] == [2 * value for value in range(12)]
        assert session.threads[before:] == [threading.get_ident()] * 2  # 8, then 4

    asyncio.run(run())


def test_outputs_that_cannot_be_told_apart_end_the_batches(tmp_path: Path) -> None:
    class Summing(Doubler):
        def run(self, tensors: Mapping[str, Any]) -> Run:
            run = super().run(tensors)
            return Run({"y": run.outputs["y"].sum(axis=0, keepdims=True)}, run.device_s, run.wall_s)

    async def run() -> None:
        engine = Engine([Summing(0.001)], max_batch=8)
        await engine.check(make_spec(tmp_path, [0, 2, 4, 6, 8, 10]))
        requests = [job(1.0), job(2.0)]
        for request, _ in requests:
            engine.submit(request)
        one, two = await asyncio.gather(*(told for _, told in requests))
        assert one["y"].tolist() == [[2, 2]] and two["y"].tolist() == [[4, 4]]
        assert engine.max_batch == 1

    asyncio.run(run())


def test_inline_runs_leave_the_loop_to_others_again_and_again(tmp_path: Path) -> None:
    async def run() -> None:
        session = Doubler(0.002)
        engine = Engine([session])
        await engine.check(make_spec(tmp_path, [0, 2, 4, 6, 8, 10]))
        loop = asyncio.get_running_loop()
        looked: list[int] = []

        def look() -> None:
            looked.append(len(session.threads))
            if len(looked) < 12:
                loop.call_soon(look)

        loop.call_soon(look)
        told = []
        for value in range(30):
            request, answer = job(float(value))
            engine.submit(request)
            told.append(answer)
        await asyncio.gather(*told)
        runs = [after - before for before, after in itertools.pairwise(looked)]
        assert max(runs) <= 3 and sum(runs) >= 20  # 5 ms of runs of 2 ms between two looks

    asyncio.run(run())


def test_a_check_goes_before_those_that_wait(tmp_path: Path) -> None:
    async def run() -> None:
        session = Gated()
        engine = await slow_engine(tmp_path, session)
        for value in (7.0, 8.0):
            engine.submit(job(value)[0])
        checking = asyncio.create_task(engine.check(make_spec(tmp_path, [0, 2, 4, 6, 8, 10])))
        await asyncio.sleep(0)
        session.gate.release(1000)
        await checking
        await until(lambda: len(session.seen) == 5)
        assert session.seen == [[7], [0], [2], [4], [8]]

    asyncio.run(run())


def keep(answers: list[Any], told: asyncio.Future[Any]) -> None:
    answers.append(told.result())


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(0, 3), st.sampled_from(["", "leaves", "fails"])),
        max_size=40,
    ),
    st.integers(1, 8),
    st.integers(1, 3),
    st.booleans(),
)
def test_everybody_gets_their_own_answer_once(
    requests: list[tuple[int, int, str]], max_batch: int, instances: int, short: bool
) -> None:
    """Sizes, priorities, clients that leave, runs that fail; on the loop or on threads."""

    async def run() -> None:
        engine = Engine([Doubler(0.0001 if short else 0.01) for _ in range(instances)], max_batch)
        engine._run_s = engine._share_s = 0.0001 if short else 0.01
        answers: dict[int, list[Any]] = {number: [] for number in range(len(requests))}
        for number, (samples, priority, fate) in enumerate(requests):
            value = float(-1 - number if fate == "fails" else 1 + number)
            request, told = job(value, samples, priority=priority)
            told.add_done_callback(partial(keep, answers[number]))
            engine.submit(request)
            if fate == "leaves":
                engine.cancel(request)
            if number % 3 == 0:
                await asyncio.sleep(0)
        staying = [number for number, (_, _, fate) in enumerate(requests) if fate != "leaves"]
        await until(lambda: all(answers[number] for number in staying))
        for number, (samples, _, fate) in enumerate(requests):
            if fate == "leaves":
                assert answers[number] == []
            elif fate == "fails":
                assert [type(answer) for answer in answers[number]] == [InferenceError]
            else:
                (answer,) = answers[number]
                assert answer["y"].tolist() == [[2.0 * (1 + number)] * 2] * samples

    asyncio.run(run())


def test_profile_gives_device_time(tmp_path: Path) -> None:
    async def run() -> None:
        engine = Engine([Doubler(0.002)])
        spec = make_spec(tmp_path, [0, 2, 4, 6, 8, 10])
        golden = GoldenData(spec.golden, spec.file)
        runs = await engine.profile(golden, 60.0, 5)
        assert [run.device_s for run in runs] == [0.001] * 5
        assert not any(run.outputs for run in runs)
        assert len(await engine.profile(golden, 0.0, 5)) == 1
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


def test_runs_for_requests_of_one_sample_are_counted_with_their_device_time() -> None:
    async def scenario(inline: bool) -> Histogram:
        engine = Engine([Doubler(0.001 if inline else 1.0)], max_batch=1 if inline else 2)
        for samples in (1, 3, 1):
            if inline:
                engine.run_now({"x": np.ones((samples, 2), np.float32)}, samples)
            else:
                one, told = job(1.0, samples)
                engine.submit(one)
                await told
        bad, told = job(-1.0)
        engine.submit(bad)
        assert isinstance(await told, InferenceError)
        counted = engine.take_runs()
        assert engine.take_runs().total == 0
        engine.close()
        return counted

    for inline, seconds in ((True, 0.001), (False, 1.0)):
        counted = asyncio.run(scenario(inline))
        assert counted.total == 2 and counted.seconds == pytest.approx(seconds)
