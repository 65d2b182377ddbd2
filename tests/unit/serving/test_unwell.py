"""A device that fails under a worker: what clients and the daemon hear. The worker's code runs in this process."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.errors import DeviceLost, DmaTimeout, InferenceError, OverlaidError, OverlayLoadError
from agent.hal import Run
from agent.serving.events import PoolEvent
from agent.serving.pool import Pool
from agent.serving.processes import process
from agent.serving.processes.spawn import Spawned, ends
from agent.serving.worker import service as worker
from agent.serving.worker import stranded
from tests.unit.serving.test_engine import Doubler, make_spec

BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]})
GOLDEN = [0, 2, 4, 6, 8, 10]


class Device:
    """Its sessions double; while ``error`` is set, every run raises it, while ``refuses`` is set, every opening."""

    def __init__(self) -> None:
        self.error: OverlaidError | None = None
        self.refuses: OverlaidError | None = None
        self.failed = 0  # runs

    def device(self, _: str) -> Device:
        return self

    def open(self, *_: object) -> Session:
        if self.refuses:
            raise self.refuses
        return Session(self)


class Session(Doubler):
    def __init__(self, device: Device) -> None:
        super().__init__(0.001)
        self.device = device

    def run(self, tensors: Mapping[str, Any]) -> Run:
        if self.device.error:
            self.device.failed += 1
            raise self.device.error
        return super().run(tensors)


class Process:
    """What process.Worker uses of a process; it ends when it is told to."""

    def __init__(self, pid: int, service: worker.Service) -> None:
        self.pid, self._service = pid, service
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self.returncode

    def kill(self) -> None:
        self.returncode = -9
        if hasattr(self._service, "_connections"):
            self._service._connections.stop_listening()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    """A board with one device, and workers that are no processes."""
    device, pids = Device(), itertools.count(1000)

    async def spawn(*_: object) -> Spawned:
        with ends() as (ours, theirs):
            service = worker.Service(theirs.control.dup())
            return Spawned(Process(next(pids), service), ours.control, ours.stderr)

    monkeypatch.setattr("agent.devices.board.open_board", lambda *_: device)
    monkeypatch.setattr("agent.serving.processes.nursery.Nursery.start", spawn)
    monkeypatch.setattr(worker, "limit_memory", lambda _: None)
    monkeypatch.setattr(worker, "name_process", lambda _: None)
    monkeypatch.setattr(worker.Service, "_orphaned", lambda _: None)
    return device


class Node:
    """A pool that serves the model ``m``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.events: list[PoolEvent] = []
        self.pool = Pool(root / "run", self._heard)

    def _heard(self, event: PoolEvent) -> None:
        if event.kind != "stats":
            self.events.append(event)

    def told(self) -> list[tuple[str, str]]:
        return [(event.kind, event.text) for event in self.events]

    async def serve(self) -> process.Worker:
        started = await self.pool.start(make_spec(self.root, GOLDEN))
        await started.check()
        await self.pool.route("m", started)
        return started

    async def ask(self) -> tuple[int, str | None, Any]:
        return await asyncio.to_thread(self._ask)

    def _ask(self) -> tuple[int, str | None, Any]:
        connection = http.client.HTTPConnection("localhost", timeout=20)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self.root / "run/models/m.sock"))
        try:
            connection.request("POST", "/v2/models/m/infer", BODY)
            answer = connection.getresponse()
            return answer.status, answer.headers["Retry-After"], json.loads(answer.read())
        finally:
            connection.close()


def play(root: Path, scenario: Callable[[Node], Awaitable[None]]) -> None:
    async def run() -> None:
        node = Node(root)
        try:
            await asyncio.wait_for(scenario(node), 30)
        finally:
            await node.pool.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    "error", [DeviceLost("it is gone"), DmaTimeout("it hangs"), OverlayLoadError("it is off")]
)
def test_the_client_is_told_to_try_again_and_the_daemon_why(
    tmp_path: Path, device: Device, error: OverlaidError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stranded, "PATIENCE_S", 0.0)

    async def scenario(node: Node) -> None:
        await node.serve()
        assert (await node.ask())[0] == 200
        device.error = error
        for _ in range(3):
            assert await node.ask() == (503, "1", {"error": str(error)})
        assert node.told() == [("unwell", f"{error.name}: {error}")]  # once a second at most
        (event,) = node.events
        assert (type(event.failure), event.model, event.candidate.device) == (type(error), "m", "cpu")
        device.error = None
        assert (await node.ask())[0] == 200

    play(tmp_path, scenario)


def test_who_was_asking_a_lost_device_is_answered_by_the_next_worker(tmp_path: Path, device: Device) -> None:
    async def scenario(node: Node) -> None:
        old = await node.serve()
        device.error = DeviceLost("it is gone")
        waiting = [asyncio.create_task(node.ask()) for _ in range(3)]
        await until(lambda: bool(node.events) and device.failed == len(waiting))
        assert node.told() == [("unwell", "DeviceLost: it is gone")] and not any(t.done() for t in waiting)
        lost, device.error = device.error, None
        await node.serve()
        assert [(await answer)[0] for answer in waiting] == [200, 200, 200]
        device.error = lost
        late = asyncio.create_task(node.ask())
        await until(lambda: len(node.events) == 2)
        device.error = None
        await node.pool.stop(old)
        await node.pool.restart("m")
        assert (await late)[0] == 200

    play(tmp_path, scenario)


def test_who_waits_for_a_lost_device_does_not_wait_for_ever(
    tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stranded, "PATIENCE_S", 0.3)

    async def scenario(node: Node) -> None:
        await node.serve()
        device.error = DeviceLost("it is gone")
        gone = 503, "1", {"error": "it is gone"}
        assert list(await asyncio.gather(node.ask(), node.ask())) == [gone, gone]
        monkeypatch.setattr(stranded, "PATIENCE_S", 60.0)
        assert await node.ask() == gone  # nobody came for so long: no more is hoped for
        device.error = None
        assert (await node.ask())[0] == 200
        device.error = DeviceLost("again")
        waiting = asyncio.create_task(node.ask())
        await until(lambda: device.failed == 4)
        device.error = None
        assert (await node.ask())[0] == 200
        assert (await waiting)[:2] == (503, "1")  # it may try again at once

    play(tmp_path, scenario)


@pytest.mark.parametrize("limit", ["MOST", "MOST_BYTES"])
def test_few_and_small_requests_wait_for_a_lost_device(
    tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(stranded, limit, 0)

    async def scenario(node: Node) -> None:
        await node.serve()
        device.error = DeviceLost("it is gone")
        assert (await node.ask())[0] == 503

    play(tmp_path, scenario)


def test_a_second_kind_of_failure_is_told_at_once(
    tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stranded, "PATIENCE_S", 0.0)

    async def scenario(node: Node) -> None:
        await node.serve()
        for device.error in (DmaTimeout("it hangs"), DmaTimeout("still"), DeviceLost("it is gone")):
            assert (await node.ask())[0] == 503
        assert node.told() == [("unwell", "DmaTimeout: it hangs"), ("unwell", "DeviceLost: it is gone")]

    play(tmp_path, scenario)


def test_a_run_that_fails_for_another_reason_is_an_error_of_the_model(tmp_path: Path, device: Device) -> None:
    async def scenario(node: Node) -> None:
        await node.serve()
        device.error = InferenceError("division by zero")
        assert await node.ask() == (500, None, {"error": "division by zero"})
        assert node.told() == []

    play(tmp_path, scenario)


def test_a_start_that_fails_for_the_device_is_told_too(tmp_path: Path, device: Device) -> None:
    async def scenario(node: Node) -> None:
        device.refuses = OverlayLoadError("the bitstream is not taken")
        with pytest.raises(OverlayLoadError):
            await node.pool.start(make_spec(tmp_path, GOLDEN))
        device.refuses, device.error = None, DeviceLost("gone in the golden run")
        started = await node.pool.start(make_spec(tmp_path, GOLDEN))
        with pytest.raises(DeviceLost):
            await started.check()
        assert [text.partition(":")[0] for _, text in node.told()] == ["OverlayLoadError", "DeviceLost"]

    play(tmp_path, scenario)


def test_a_worker_on_a_lost_device_is_not_started_over_and_over(tmp_path: Path, device: Device) -> None:
    async def scenario(node: Node) -> None:
        crashing = await node.serve()
        device.refuses = DeviceLost("it is gone")
        await crashing.end()
        await until(lambda: len(node.events) == 2)
        assert [kind for kind, _ in node.told()] == ["crashed", "unwell"]
        await asyncio.sleep(0.5)  # by now it would have been started twice more
        assert len(node.events) == 2
        device.refuses = None
        await node.pool.restart("m")  # as the manager does when the device is back
        await until(lambda: node.told()[-1][0] == "restarted")
        assert (await node.ask())[0] == 200

    play(tmp_path, scenario)


def test_a_transfer_that_hangs_in_a_start_is_tried_again_soon(tmp_path: Path, device: Device) -> None:
    async def scenario(node: Node) -> None:
        crashing = await node.serve()
        device.refuses = DmaTimeout("it hangs")
        await crashing.end()
        await until(lambda: [kind for kind, _ in node.told()].count("unwell") == 2)
        device.refuses = None
        await until(lambda: node.told()[-1][0] == "restarted")

    play(tmp_path, scenario)


def test_a_worker_that_was_replaced_has_nothing_more_to_tell(tmp_path: Path, device: Device) -> None:
    async def scenario(node: Node) -> None:
        old = await node.serve()
        new = await node.serve()
        node.pool._unwell(old, DeviceLost("where it was"))
        assert node.told() == []
        node.pool._unwell(new, DeviceLost("where it is"))
        assert node.told() == [("unwell", "DeviceLost: where it is")]
        await node.pool.route("m", old)  # a rollback: it serves again
        node.pool._unwell(old, DeviceLost("here"))
        assert len(node.events) == 2
        await node.pool.stop(new)

    play(tmp_path, scenario)


def test_a_model_that_is_given_up_is_unknown_again(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        node.pool.expect(["m"])
        assert node.pool.serves("m")
        await node.pool.unroute("m")
        assert not node.pool.serves("m")

    play(tmp_path, scenario)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come to that")
