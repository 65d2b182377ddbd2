"""Zygotes with real processes: forked workers, what dies with whom, what is left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import ModelLoadError, RuntimeUnavailable
from agent.serving.events import PoolEvent
from agent.serving.pool import Pool
from agent.serving.processes import nursery
from agent.serving.processes.nursery import Nursery
from agent.serving.processes.process import Worker
from agent.serving.processes.restart import Backoff
from agent.serving.processes.spawn import Spawned
from agent.serving.spec import WorkerSpec
from agent.types import Candidate
from tests.system.serving_models import make_spec

ZYGOTE = "agent.serving.processes.zygote"
COLD = "agent.serving.worker"


def children(pid: int | None = None) -> set[int]:
    tasks = Path(f"/proc/{pid or os.getpid()}/task").iterdir()
    return {int(child) for task in tasks for child in (task / "children").read_text().split()}


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def started_as(pid: int) -> str:
    """The module that the process was started with; forked workers have their zygote's."""
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[2]


def zygotes() -> list[int]:
    """Those of this process, dead ones too."""
    return [pid for pid in children() if Path(f"/proc/{pid}/comm").read_text() == "zygote\n"]


def private_kb(pid: int) -> int:
    found = re.findall(r"^Private_\w+:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return sum(map(int, found))


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def play(root: Path, scenario: Callable[[Pool, list[PoolEvent]], Awaitable[None]]) -> None:
    """With a pool of its own, of which no process and no descriptor is left."""

    async def run() -> None:
        events: list[PoolEvent] = []
        pool = Pool(root / "run", events.append)
        try:
            await scenario(pool, events)
        finally:
            await pool.close()

    gc.collect()  # what other tests have left open may be closed meanwhile
    processes, before = children(), descriptors()
    asyncio.run(run())
    assert children() == processes and descriptors() <= before


async def serve(pool: Pool, spec: WorkerSpec) -> Worker:
    worker = await pool.start(spec)
    await worker.check()
    await pool.route(spec.model, worker)
    return worker


async def ask(root: Path, model: str, rows: int = 1) -> tuple[int, bytes]:
    """Status and body of an inference with the first of ``rows`` rows all ones, over the model's own socket."""
    body = b'{"inputs":[{"name":"x","shape":[%d,4],"datatype":"FP32","data":[1%s]}]}' % (
        rows,
        b",1" * (4 * rows - 1),
    )
    reader, writer = await asyncio.open_unix_connection(str(root / f"run/models/{model}.sock"))
    try:
        head = f"POST /v2/models/{model}/infer HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = await reader.read()
    finally:
        writer.close()
    return int(answer.split(b" ", 2)[1]), answer.partition(b"\r\n\r\n")[2]


async def ask_until_answered(root: Path, model: str) -> bytes:
    """A client that tries again when its connection is lost with the worker."""
    for _ in range(1000):
        try:
            status, body = await ask(root, model)
        except (OSError, IndexError):
            continue
        if status == 200:
            return body
    raise AssertionError("no answer")


def test_workers_are_forked_and_share_what_the_zygote_imported(tmp_path: Path) -> None:
    async def scenario(pool: Pool, _: list[PoolEvent]) -> None:
        forked = await serve(pool, make_spec(tmp_path, "double", 2.0))
        second = await serve(pool, make_spec(tmp_path, "triple", 3.0))
        assert len(zygotes()) == 1 and zygotes()[0] not in (forked.pid, second.pid)
        for worker in (forked, second):
            assert started_as(worker.pid) == ZYGOTE and worker.pid in children()
        cold = Worker(make_spec(tmp_path, "cold", 4.0), lambda *_: None, lambda *_: None)
        await cold.start()
        await cold.check()
        assert started_as(cold.pid) == COLD
        assert private_kb(second.pid) < private_kb(cold.pid) / 2
        await cold.stop()
        assert (await ask(tmp_path, "double"))[0] == 200
        assert Path(f"/proc/{second.pid}/environ").read_bytes().count(b"OMP_NUM_THREADS=1\0") == 1

    play(tmp_path, scenario)


def test_a_segfault_is_named_and_another_process_answers_next(tmp_path: Path) -> None:
    async def scenario(pool: Pool, events: list[PoolEvent]) -> None:
        first = await serve(pool, make_spec(tmp_path, "double", 2.0))
        other = await serve(pool, make_spec(tmp_path, "triple", 3.0))
        os.kill(first.pid, signal.SIGSEGV)
        assert b"2.0" in await ask_until_answered(tmp_path, "double")
        told = [(event.kind, event.model) for event in events if event.kind != "stats"]
        assert told == [("crashed", "double"), ("restarted", "double")]
        assert "SIGSEGV" in events[0].text
        second = pool.worker("double")
        assert second is not None and second.pid != first.pid and started_as(second.pid) == ZYGOTE
        assert pool.worker("triple") is other

    play(tmp_path, scenario)


def test_workers_outlive_their_zygote_and_another_one_comes(tmp_path: Path) -> None:
    async def scenario(pool: Pool, events: list[PoolEvent]) -> None:
        worker = await serve(pool, make_spec(tmp_path, "double", 2.0))
        (zygote,) = zygotes()
        os.kill(zygote, signal.SIGKILL)
        await until(lambda: zygote not in children())
        assert (await ask(tmp_path, "double"))[0] == 200
        next_one = await serve(pool, make_spec(tmp_path, "triple", 3.0))
        assert (await ask(tmp_path, "triple"))[0] == 200
        os.kill(worker.pid, signal.SIGKILL)  # an orphan of the first zygote is collected like any other
        await ask_until_answered(tmp_path, "double")
        await until(lambda: len(zygotes()) == 1)
        assert zygotes() != [zygote] and next_one.pid in children()
        assert [
            event.text for event in events if event.kind == "crashed" and "SIGKILL" not in event.text
        ] == []

    play(tmp_path, scenario)


def test_a_zygote_that_hangs_is_replaced_and_the_worker_starts_cold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nursery, "FORK_S", 0.2)

    async def scenario(pool: Pool, _: list[PoolEvent]) -> None:
        await serve(pool, make_spec(tmp_path, "double", 2.0))
        (zygote,) = zygotes()
        os.kill(zygote, signal.SIGSTOP)
        worker = await serve(pool, make_spec(tmp_path, "triple", 3.0))
        assert started_as(worker.pid) == COLD
        await until(lambda: zygotes() not in ([], [zygote]))

    play(tmp_path, scenario)


def test_a_zygote_killed_in_the_middle_of_forks_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backoff, "crashed", lambda *_: 0.0)

    async def scenario(pool: Pool, _: list[PoolEvent]) -> None:
        await serve(pool, make_spec(tmp_path, "double", 2.0))
        for delay in range(5):
            await until(lambda: len(zygotes()) == 1)
            asyncio.get_running_loop().call_later(delay * 0.0005, os.kill, zygotes()[0], signal.SIGKILL)
            workers = await asyncio.gather(*(pool.start(make_spec(tmp_path, f"m{n}", 2.0)) for n in range(2)))
            await asyncio.gather(*(pool.stop(worker) for worker in workers))

    play(tmp_path, scenario)


def test_a_daemon_that_was_started_with_sigchld_ignored(tmp_path: Path) -> None:
    async def scenario(pool: Pool, _: list[PoolEvent]) -> None:
        before = await serve(pool, make_spec(tmp_path, "double", 2.0))
        os.kill(before.pid, signal.SIGKILL)
        await ask_until_answered(tmp_path, "double")

    ignored = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        play(tmp_path, scenario)
    finally:
        signal.signal(signal.SIGCHLD, ignored)


def test_a_runtime_that_cannot_be_imported_is_named_by_the_cold_worker(tmp_path: Path) -> None:
    async def scenario(pool: Pool, _: list[PoolEvent]) -> None:
        spec = replace(make_spec(tmp_path, "double", 2.0), candidate=Candidate("v", "nonsense", "cpu"))
        with pytest.raises(RuntimeUnavailable, match="no backend 'nonsense'"):
            await pool.start(spec)

    play(tmp_path, scenario)


def test_workers_of_other_devices_start_cold(tmp_path: Path) -> None:
    async def scenario(pool: Pool, _: list[PoolEvent]) -> None:
        spec = make_spec(tmp_path, "double", 2.0)
        gpu = Candidate("v", "onnxruntime", "gpu")
        folder = tmp_path / "board"
        folder.mkdir()
        worker = await pool.start(
            replace(spec, candidate=gpu, board="sim:jetson-orin-nano", board_folder=folder)
        )
        assert started_as(worker.pid) == COLD and zygotes() == []
        await pool.stop(worker)

    play(tmp_path, scenario)


def test_a_zygote_ends_when_no_worker_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nursery, "IDLE_S", 0.1)

    async def scenario(pool: Pool, _: list[PoolEvent]) -> None:
        worker = await serve(pool, make_spec(tmp_path, "double", 2.0))
        await asyncio.sleep(0.5)
        assert len(zygotes()) == 1 and worker.pid in children()
        await pool.unroute("double")
        await until(lambda: zygotes() == [])
        again = await serve(pool, make_spec(tmp_path, "double", 2.0))
        assert started_as(again.pid) == ZYGOTE

    play(tmp_path, scenario)


def test_a_zygote_is_collected_though_its_end_is_cut_short() -> None:
    async def run() -> None:
        zygote = nursery.Zygote("onnxruntime")
        await zygote.start()
        ending = asyncio.ensure_future(zygote.end())
        await asyncio.sleep(0)
        ending.cancel()
        await asyncio.gather(ending, return_exceptions=True)
        assert ending.cancelled() and zygotes() == []

    asyncio.run(run())
    gc.collect()  # a Popen that is dropped before its process was collected warns


def test_a_hundred_forks_leave_no_descriptor_and_no_zombie(tmp_path: Path) -> None:
    async def end(spawned: Spawned) -> None:
        spawned.control.close()
        os.close(spawned.stderr)
        while spawned.process.poll() is None:  # it ends with its channel
            await asyncio.sleep(0.002)
        assert spawned.process.returncode in (0, -signal.SIGKILL)

    async def run() -> None:
        spec = make_spec(tmp_path, "double", 2.0)
        keeper = Nursery()
        await end(await keeper.start(spec))
        (zygote,) = zygotes()
        ours, theirs = descriptors(), len(list(Path(f"/proc/{zygote}/fd").iterdir()))
        for _ in range(25):
            started = [keeper.start(spec) for _ in range(4)]
            for spawned in await asyncio.gather(*started):
                assert started_as(spawned.process.pid) == ZYGOTE
                await end(spawned)
        assert (descriptors(), len(list(Path(f"/proc/{zygote}/fd").iterdir()))) == (ours, theirs)
        assert zygotes() == [zygote] and children(zygote) == set()
        await keeper.close()
        assert zygotes() == []

    asyncio.run(run())


@contextmanager
def daemon(root: Path) -> Iterator[tuple[subprocess.Popen[bytes], int, int]]:
    """Another process with a pool, its worker and its zygote."""
    script = (
        "import asyncio, sys, pathlib\n"
        "from agent.serving.pool import Pool\n"
        "from agent.serving.spec import WorkerSpec\n"
        "async def main():\n"
        "    pool = Pool(pathlib.Path(sys.argv[2]), print)\n"
        "    worker = await pool.start(WorkerSpec.from_json(pathlib.Path(sys.argv[1]).read_bytes()))\n"
        "    await pool.route('double', worker)\n"
        "    assert 'numpy' not in sys.modules\n"
        "    print(worker.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    (root / "spec.json").write_bytes(make_spec(root, "double", 2.0).to_json())
    command = [sys.executable, "-c", script, str(root / "spec.json"), str(root / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            worker = int(process.stdout.readline())
            (zygote,) = children(process.pid) - {worker}
            yield process, worker, zygote
        finally:
            process.kill()


def wait_for_end(*pids: int) -> None:
    deadline = time.monotonic() + 10
    for pid in pids:
        while alive(pid):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("zygote_first", [False, True])
def test_even_a_stuck_worker_dies_with_the_daemon(tmp_path: Path, zygote_first: bool) -> None:
    with daemon(tmp_path) as (process, worker, zygote):
        os.kill(worker, signal.SIGSTOP)  # it cannot see that its channel ends
        if zygote_first:
            os.kill(zygote, signal.SIGKILL)
            wait_for_end(zygote)
            assert alive(worker)
        process.kill()
        wait_for_end(worker, zygote)


def test_a_run_that_needs_more_memory_than_it_may_have_fails_alone(tmp_path: Path) -> None:
    async def scenario(pool: Pool, events: list[PoolEvent]) -> None:
        worker = await serve(pool, replace(wide_spec(tmp_path), memory_mb=160))
        for _ in range(2):
            status, body = await ask(tmp_path, "wide", rows=200)
            assert status == 500 and b"160 MiB" in body and b"serving.worker_memory_mb" in body
            assert (await ask(tmp_path, "wide"))[0] == 200
        assert pool.worker("wide") is worker and all(event.kind == "stats" for event in events)
        assert int(Path(f"/proc/{worker.pid}/oom_score_adj").read_text()) == 500

    play(tmp_path, scenario)


def test_a_model_too_large_for_its_worker_is_refused_with_the_limit(tmp_path: Path) -> None:
    async def scenario(pool: Pool, _: list[PoolEvent]) -> None:
        with pytest.raises(ModelLoadError, match=r"serving\.worker_memory_mb"):
            await pool.start(replace(wide_spec(tmp_path, constant=1 << 26), memory_mb=160))

    play(tmp_path, scenario)


def wide_spec(root: Path, constant: int = 0) -> WorkerSpec:
    """y = 2x, by way of 4 MB for each row; with a weight of ``constant`` bytes."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    spec = make_spec(root, "wide", 2.0)
    weight = np.zeros(max(1, constant // 4), np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Tile", ["x", "times"], ["large"]),
            helper.make_node("ReduceMax", ["large"], ["most"], axes=[1], keepdims=1),
            helper.make_node("Add", ["x", "x"], ["sum"]),
            helper.make_node("Mul", ["most", "nothing"], ["none"]),
            helper.make_node("ReduceMax", ["weight"], ["zero"], keepdims=0),
            helper.make_node("Add", ["none", "zero"], ["zeros"]),
            helper.make_node("Add", ["sum", "zeros"], ["y"]),
        ],
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [
            numpy_helper.from_array(np.array([1, 1 << 18], np.int64), "times"),
            numpy_helper.from_array(np.float32(0), "nothing"),
            numpy_helper.from_array(weight, "weight"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, spec.file.path)
    return spec
