"""Slow senders make way; what thousands of visits and dozens of crashes use comes back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from agent.app.allowance import allow_many_descriptors
from tests.system.crashing import Client, Node, descriptors, scenario
from tests.system.serving_models import make_spec

SLACK_MB = 8.0  # what allocators keep


def resident_mb(pid: int | None = None) -> float:
    pages = int(Path(f"/proc/{pid or os.getpid()}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextlib.contextmanager
def crowd(address: tuple[str, int] | Path, size: int, says: bytes) -> Iterator[list[socket.socket]]:
    """Connections that say one thing and then nothing."""
    allow_many_descriptors()
    with contextlib.ExitStack() as stack:
        socks = []
        for _ in range(size):
            family = socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET
            sock = stack.enter_context(socket.socket(family))
            sock.settimeout(20)
            sock.connect(str(address) if isinstance(address, Path) else address)
            with contextlib.suppress(OSError):  # it was thrown out at once
                sock.sendall(says)
            socks.append(sock)
        yield socks


def several(clients: list[Client], times: int) -> None:
    for _ in range(times):
        for client in clients:
            assert client.infer() == 200


def admitted(node: Node, door: bool) -> Client:
    """A client that was served once; while a crowd arrives, some are told to come back."""
    for _ in range(200):
        client = node.client("double", door)
        client.send()
        status, headers, _ = client.answer()
        if status == 200:
            return client
        assert (status, headers["Retry-After"]) == (503, "1")
        time.sleep(0.02)
    raise AssertionError("nobody is served any more")


def test_slow_bodies_at_a_model_make_way(tmp_path: Path) -> None:
    async def steps(node: Node) -> None:
        says = b"POST /v2/models/double/infer HTTP/1.1\r\nContent-Length: 1000\r\n\r\n{"
        sockets = node.root / "run/models/double.sock", node.door.address

        def visit() -> None:
            for address in sockets:
                assert address is not None
                with crowd(address, 400, says):
                    clients = [admitted(node, door) for door in (True, False) for _ in range(5)]
                    several(clients, 5)

        await asyncio.to_thread(visit)

    scenario(tmp_path, [make_spec(tmp_path, "double", 2.0)], steps)


def test_what_connections_use_comes_back(tmp_path: Path) -> None:
    async def steps(node: Node) -> None:
        pid = node.pid("double")

        def visits(count: int) -> None:
            for number in range(count):
                client = node.client("double", door=number % 2 == 0)
                if number % 3 == 0:
                    client.sock.sendall(b"POST /v2/models/double/infer HTTP/1.1\r\nContent-Le")
                elif number % 3 == 1:
                    assert client.infer() == 200
                client.close()

        def used() -> tuple[int, int]:
            return descriptors(), descriptors(pid)

        await asyncio.to_thread(visits, 500)
        node.forget_clients()
        await asyncio.sleep(0.5)
        before, memory = used(), (resident_mb(), resident_mb(pid))
        await asyncio.to_thread(visits, 3000)
        node.forget_clients()
        await node.until(lambda: used() <= before)
        grown = resident_mb() - memory[0], resident_mb(pid) - memory[1]
        assert max(grown) < SLACK_MB, grown

    scenario(tmp_path, [make_spec(tmp_path, "double", 2.0)], steps)


def test_what_crashes_use_comes_back(tmp_path: Path) -> None:
    async def steps(node: Node) -> None:
        clients = [node.client("double", door) for door in (True, False) for _ in range(3)]
        times = 0

        async def crash(count: int) -> None:
            nonlocal times
            for _ in range(count):
                await asyncio.to_thread(several, clients, 1)
                await node.until(lambda: not any(node.vitals("double").states))
                os.kill(node.pid("double"), signal.SIGKILL)
                times += 1
                while len(node.told("restarted")) < times:
                    if node.pool.worker("double") is None:
                        await node.pool.restart("double")  # without waiting out the back-off
                    await asyncio.sleep(0.005)

        await crash(10)
        before, memory = descriptors(), resident_mb()
        await crash(60)
        await node.until(lambda: descriptors() <= before)
        assert resident_mb() - memory < SLACK_MB
        assert len(node.told("crashed")) == len(node.told("restarted")) == 70

    scenario(tmp_path, [make_spec(tmp_path, "double", 2.0)], steps)
