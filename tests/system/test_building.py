"""A real worker whose runtime builds something before it can run the model."""

from __future__ import annotations

import asyncio
import functools
import http.client
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from agent.serving.events import PoolEvent
from agent.serving.pool import Pool
from agent.serving.processes.process import Worker
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
    asked.write_text("the engine\nof m")
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
