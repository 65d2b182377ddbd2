"""A real worker whose runtime builds something before it can run the model."""

from __future__ import annotations

import asyncio
import functools
import http.client
import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from agent.serving.events import PoolEvent
from agent.serving.pool import Pool
from agent.serving.processes.process import Worker
from agent.serving.processes.vitals import Patience
from tests.system.building import start_building
from tests.system.serving_models import make_spec


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(str(self._path))


def ask_ready(path: Path) -> tuple[int, str]:
    """What the model's own socket answers."""
    connection = _Unix(path)
    try:
        connection.request("GET", "/v2/models/m/ready")
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(3000):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("waited in vain")


def test_a_build_is_shown_and_waited_for_at_the_start_and_after_a_crash(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, "m", 2.0)
    asked, go, built = (spec.file.path.with_suffix(end) for end in (".build", ".go", ".built"))
    asked.write_text(f"the engine\nof {spec.file.path.name}")  # in a store that is a digest
    events: list[PoolEvent] = []

    async def scenario() -> None:
        make_worker = functools.partial(Worker, spawn=start_building)
        pool = Pool(tmp_path / "run", events.append, make_worker)
        try:
            starting = asyncio.create_task(pool.start(spec))
            await until(lambda: pool.builds.text("m") != "")
            assert pool.builds.text("m") == "building the engine of m"
            pool.expect(["m"])
            assert pool.trouble("m") == "model 'm' is being loaded (building the engine of m); try again"
            go.touch()
            worker = await starting
            assert worker.building.total_s > 0
            assert pool.builds.text("m") == ""
            await worker.check()
            await pool.route("m", worker)
            assert [event.kind for event in events] == ["building", "built"]
            assert events[0].text == "the engine of m, for fp32 on cpu (onnxruntime)"

            go.unlink()
            built.unlink()  # as after an update of the driver
            assert worker.pid
            os.kill(worker.pid, signal.SIGKILL)
            await until(lambda: pool.builds.text("m") != "")
            path = pool.socket_of("m")
            assert path is not None
            status, text = await asyncio.to_thread(ask_ready, path)
            assert status == 503
            assert "building the engine of m" in text
            assert "building the engine of m; try again" in pool.trouble("m")
            go.touch()
            await until(lambda: pool.trouble("m") == "")
            assert (await asyncio.to_thread(ask_ready, path))[0] == 200
        finally:
            await pool.close()

    asyncio.run(scenario())


def ask_batch(path: Path) -> int:
    """The status that the model's own socket answers to a batch of two."""
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 4], "data": [1.0] * 8}]}
    connection = _Unix(path)
    try:
        connection.request("POST", "/v2/models/m/infer", json.dumps(body))
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_build_for_a_batch_of_another_size_is_no_hung_run(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, "m", 2.0)
    asked, go = (spec.file.path.with_suffix(end) for end in (".batch", ".go"))
    asked.write_text("the engine of m for batches of 2")
    hasty = Patience(look_s=0.05, doubt_s=0.5, silent_s=10.0, run_s=1.0)

    async def scenario() -> None:
        events: list[PoolEvent] = []
        pool = Pool(
            tmp_path / "run", events.append, functools.partial(Worker, spawn=start_building), patience=hasty
        )
        try:
            worker = await pool.start(spec)
            await worker.check()
            await pool.route("m", worker)
            path = pool.socket_of("m")
            assert path is not None
            asking = asyncio.create_task(asyncio.to_thread(ask_batch, path))
            await until(lambda: not asked.exists())
            await asyncio.sleep(3 * hasty.run_s)
            assert worker.fate == ""
            go.touch()
            assert await asking == 200
            assert pool.status("m").restarts == 0  # type: ignore[union-attr]
            assert [event.kind for event in events if event.kind != "stats"] == []
        finally:
            await pool.close()

    asyncio.run(scenario())
