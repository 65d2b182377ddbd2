"""Workers that crash or hang, at every moment of a request: who hears of it, and who does not."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from agent.serving.http.seat import ANSWERING, BUSY
from tests.system.crashing import HURRIED, Client, Node, make_spin, make_wide, scenario
from tests.system.serving_models import make_spec

FOREVER = 1 << 40
WAYS = pytest.mark.parametrize("door", [True, False], ids=["door", "own socket"])


async def in_state(node: Node, model: str, state: int) -> None:
    """Until a connection of the model's worker is in ``state``."""

    def there() -> bool:
        worker = node.pool.worker(model)
        assert worker is not None and worker.vitals is not None
        return state in bytes(worker.vitals.states)

    await node.until(there)


async def idle(node: Node, model: str) -> None:
    """Until all are; the worker notes it after the answer has left."""

    def there() -> bool:
        worker = node.pool.worker(model)
        return worker is not None and worker.vitals is not None and not any(worker.vitals.states)

    await node.until(there)


async def running(node: Node, model: str) -> None:
    def runs() -> bool:
        worker = node.pool.worker(model)
        return worker is not None and worker.vitals is not None and worker.vitals.running_since > 0

    await node.until(runs)


def refused(client: Client, *texts: str) -> None:
    """The client is told, and its connection closed."""
    status, headers, answer = client.answer()
    assert status == 503 and headers["Retry-After"] == "1" and headers["Connection"] == "close"
    assert all(text in answer["error"] for text in texts), answer
    assert client.closed()


@WAYS
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_crash_in_a_run_is_told_to_its_client(tmp_path: Path, number: signal.Signals, door: bool) -> None:
    async def steps(node: Node) -> None:
        client = node.client("spin", door)
        client.send(FOREVER)
        await running(node, "spin")
        os.kill(node.pid("spin"), number)
        await asyncio.to_thread(
            refused, client, f"worker of spin@1.0 (fp32 on cpu (onnxruntime)) was killed by {number.name}"
        )
        await node.restarted("spin")
        again = node.client("spin", door)
        assert await asyncio.to_thread(again.infer) == 200

    scenario(tmp_path, [make_spin(tmp_path)], steps)


@pytest.mark.parametrize(
    ("sent", "half_closed"), [(20, False), (-10, False), (-10, True)], ids=["head", "body", "half-closed"]
)
@WAYS
def test_a_crash_while_a_request_arrives_is_told(
    tmp_path: Path, door: bool, sent: int, half_closed: bool
) -> None:
    async def steps(node: Node) -> None:
        client = node.client("double", door)
        assert await asyncio.to_thread(client.infer) == 200  # the worker has it now
        await idle(node, "double")
        client.send(part=slice(sent))
        await in_state(node, "double", BUSY)
        pid = node.pid("double")
        os.kill(pid, signal.SIGSTOP)
        if half_closed:
            client.sock.shutdown(socket.SHUT_WR)
        os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(refused, client, "SIGKILL")
        await node.restarted("double")

    scenario(tmp_path, [make_spec(tmp_path, "double", 2.0)], steps)


@WAYS
def test_a_crash_while_an_answer_leaves_ends_the_connection(tmp_path: Path, door: bool) -> None:
    async def steps(node: Node) -> None:
        client = node.client("wide", door)
        client.send(16 << 20, binary_data_output=True)
        await in_state(node, "wide", ANSWERING)
        os.kill(node.pid("wide"), signal.SIGKILL)
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            await asyncio.to_thread(client.answer)
        await node.restarted("wide")

    scenario(tmp_path, [make_wide(tmp_path)], steps)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_idle_connections_outlive_a_crash(tmp_path: Path, number: signal.Signals) -> None:
    async def steps(node: Node) -> None:
        clients = [node.client("double", door) for door in (True, False) for _ in range(20)]
        for client in clients:
            assert await asyncio.to_thread(client.infer) == 200
        for times in (1, 2):
            await idle(node, "double")
            os.kill(node.pid("double"), number)
            await node.restarted("double", times)
            for client in clients:
                assert await asyncio.to_thread(client.infer) == 200

    scenario(tmp_path, [make_spec(tmp_path, "double", 2.0)], steps)


def test_the_queue_of_the_socket_outlives_a_crash(tmp_path: Path) -> None:
    async def steps(node: Node) -> None:
        pid = node.pid("double")
        os.kill(pid, signal.SIGSTOP)
        waiting = [node.client("double", door=False) for _ in range(50)]
        for client in waiting:
            client.send()
        os.kill(pid, signal.SIGKILL)
        for client in waiting:
            assert (await asyncio.to_thread(client.answer))[0] == 200

    scenario(tmp_path, [make_spec(tmp_path, "double", 2.0)], steps)


def test_a_worker_that_stops_is_doubted_then_ended(tmp_path: Path) -> None:
    async def steps(node: Node) -> None:
        waiting, health = node.client("double", door=False), node.client("double")
        assert await asyncio.to_thread(waiting.infer) == 200
        await idle(node, "double")
        pid = node.pid("double")
        os.kill(pid, signal.SIGSTOP)
        waiting.send()
        await node.until(lambda: node.pool.trouble("double") != "")
        assert Path(f"/proc/{pid}").exists() and not node.told("crashed")
        health.sock.sendall(b"GET /v2/health/ready HTTP/1.1\r\n\r\n")
        status, _, answer = await asyncio.to_thread(health.answer)
        assert (status, answer) == (503, {"ready": False, "waiting_for": ["double"]})
        health.send()
        status, headers, answer = await asyncio.to_thread(health.answer)
        assert (status, headers["Retry-After"]) == (503, "1") and "does not answer: no sign" in answer[
            "error"
        ]
        assert (await asyncio.to_thread(waiting.answer))[0] == 200  # by the next worker
        assert "hung (no sign of life for 3 s) and was killed" in node.told("crashed")[0]
        assert not node.pool.trouble("double") and node.pid("double") != pid

    scenario(tmp_path, [make_spec(tmp_path, "double", 2.0)], steps, HURRIED)


@WAYS
def test_a_run_that_does_not_end_is_ended(tmp_path: Path, door: bool) -> None:
    async def steps(node: Node) -> None:
        client = node.client("spin", door)
        client.send(FOREVER)
        await node.until(lambda: "does not answer: a run has lasted 2 s" in node.pool.trouble("spin"))
        await asyncio.to_thread(refused, client, "hung (a run has lasted 3 s) and was killed")
        await node.restarted("spin")

    scenario(tmp_path, [make_spin(tmp_path)], steps, HURRIED)


def test_a_model_that_cannot_start_says_so_on_its_socket_too(tmp_path: Path) -> None:
    async def steps(node: Node) -> None:
        old, door = node.client("double", door=False), node.client("double")
        assert await asyncio.to_thread(old.infer) == 200
        await idle(node, "double")
        model = tmp_path / "double-1.0.onnx"
        intact = model.read_bytes()
        model.write_bytes(b"corrupt")
        os.kill(node.pid("double"), signal.SIGKILL)
        await node.until(lambda: bool(node.told("gave-up")), 60)
        new = node.client("double", door=False)
        for client in (new, door):
            client.send()
            status, headers, answer = await asyncio.to_thread(client.answer)
            assert (status, headers["Retry-After"]) == (503, "1")
            assert "crashes again and again" in answer["error"] and "ONNX Runtime" in answer["error"]
        asking = node.client("double", door=False)
        asking.sock.sendall(b"GET /v2/models/double/ready HTTP/1.1\r\n\r\n")
        assert (await asyncio.to_thread(asking.answer))[0] == 503
        model.write_bytes(intact)
        await node.pool.restart("double")
        await node.until(lambda: not node.pool.trouble("double"))
        for client in (old, asking):
            assert await asyncio.to_thread(client.infer) == 200

    scenario(tmp_path, [make_spec(tmp_path, "double", 2.0)], steps)


def test_the_next_answer_comes_soon(tmp_path: Path) -> None:
    """Not a figure (that is the bench's): only that no step of the restart waits for a timer of seconds."""

    async def steps(node: Node) -> None:
        client = node.client("double", door=False)
        assert await asyncio.to_thread(client.infer) == 200
        await idle(node, "double")
        os.kill(node.pid("double"), signal.SIGSEGV)
        began = time.monotonic()
        assert await asyncio.to_thread(client.infer) == 200
        assert time.monotonic() - began < 10

    scenario(tmp_path, [make_spec(tmp_path, "double", 2.0)], steps)
