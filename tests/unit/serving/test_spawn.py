"""Children of this process, however they came to be; which workers may be forked."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agent.serving.processes.nursery import forkable
from agent.serving.processes.spawn import Forked, adopting, ends, start_cold
from agent.types import Candidate
from tests.unit.serving.descriptors import open_descriptors
from tests.unit.serving.test_engine import make_spec


def children() -> set[int]:
    return {
        int(pid)
        for task in Path("/proc/self/task").iterdir()
        for pid in (task / "children").read_text().split()
    }


def until_ended(process: Forked) -> int:
    deadline = time.monotonic() + 10
    while process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert process.returncode is not None
    return process.returncode


@contextmanager
def forked(status: int | None) -> Iterator[Forked]:
    """A child that exits with ``status``, or sleeps."""
    pid = os.fork()
    if pid == 0:
        if status is None:
            time.sleep(60)
        os._exit(status or 0)
    yield Forked(pid)


def test_a_forked_process_is_polled_killed_and_collected_like_any_other() -> None:
    with forked(3) as process:
        assert until_ended(process) == 3 and process.poll() == 3
        process.kill()  # nothing happens: it has been collected
    with forked(None) as process:
        assert process.poll() is None
        process.kill()
        assert until_ended(process) == -signal.SIGKILL
    assert process.pid not in children()


def orphan() -> int:
    """A grandchild whose parent has ended; it ends by itself at once."""
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        child = os.fork()
        if child == 0:
            time.sleep(0.05)
            os._exit(7)
        os.write(send, str(child).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(send)
    with os.fdopen(receive) as answer:
        return int(answer.read())


def test_orphans_are_adopted_meanwhile_and_no_longer() -> None:
    with adopting():
        with adopting():
            pass
        assert until_ended(Forked(orphan())) == 7
    with pytest.raises(ChildProcessError):
        os.waitpid(orphan(), 0)


def test_ends_that_nobody_took_are_closed() -> None:
    gc.collect()  # what other tests have left open may be closed meanwhile
    before = open_descriptors()
    with pytest.raises(RuntimeError), ends():
        raise RuntimeError
    assert open_descriptors() <= before
    with ends() as (ours, theirs):
        pass
    assert theirs.control.fileno() == -1
    ours.control.close()
    assert os.read(ours.stderr, 1) == b""
    os.close(ours.stderr)
    assert open_descriptors() <= before


def test_only_workers_on_the_cpu_whose_threads_are_their_own_are_forked(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, [0, 2, 4, 6, 8, 10])

    def on(backend: str, device: str, threads: int = 1) -> bool:
        return forkable(
            replace(spec, candidate=Candidate("v", backend, device), file=replace(spec.file, threads=threads))
        )

    assert (
        on("onnxruntime", "cpu")
        and on("onnxruntime", "cpu", 4)
        and on("litert", "cpu", 2)
        and on("program", "cpu")
    )
    assert not on("program", "cpu", 2)
    assert not on("opencl", "cpu")
    assert not on("of another version", "cpu")
    assert not any(
        on(backend, device) for backend in ("onnxruntime", "npu") for device in ("gpu", "fpga", "opencl0")
    )


def test_a_cold_start_leaves_out_the_brokers_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVERLAID_MQTT_PASSWORD", "secret")
    spec = make_spec(tmp_path, [0, 2, 4, 6, 8, 10])
    spawned = asyncio.run(start_cold(replace(spec, file=replace(spec.file, threads=3))))
    try:
        deadline = time.monotonic() + 10
        while b"OMP_NUM_THREADS" not in (
            environment := Path(f"/proc/{spawned.process.pid}/environ").read_bytes()
        ):
            assert time.monotonic() < deadline
        assert b"secret" not in environment and b"OMP_NUM_THREADS=3" in environment
    finally:
        spawned.control.close()
        os.close(spawned.stderr)
        spawned.process.kill()
        while spawned.process.poll() is None:
            time.sleep(0.005)
