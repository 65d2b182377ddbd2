"""HTTP to a worker: connections that are kept, that break, that hang."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agent.app.bindings.client import ModelClient
from agent.errors import WorkerCrashed, WorkerError, WorkerTimeout
from tests.unit.app.bindings.worker import error, played, until

LENGTH = {"Inference-Header-Content-Length": "0"}


def test_one_connection_serves_many_requests(tmp_path: Path) -> None:
    async def run() -> None:
        async with played(tmp_path / "s") as worker:
            client = ModelClient(lambda: tmp_path / "s", 100)
            for number in range(3):
                reply = await client.request("POST", "/v2/models/m/infer", b"%d" % number, LENGTH)
                assert (reply.status, reply.body) == (200, b"{}%d" % number)
            assert worker.connections == 1
            client.close()

    asyncio.run(run())


def test_a_connection_that_broke_is_an_error_once_and_then_made_anew(tmp_path: Path) -> None:
    async def run() -> None:
        async with played(tmp_path / "s") as worker:
            client = ModelClient(lambda: tmp_path / "s", 100)
            await client.request("GET", "/v2/models/m")
            worker.cut()
            await asyncio.sleep(0.02)
            with pytest.raises(WorkerCrashed):
                await client.request("GET", "/v2/models/m")
            assert (await client.request("GET", "/v2/models/m")).status == 200
            assert worker.connections == 2
            client.close()

    asyncio.run(run())


def test_a_close_that_was_announced_is_kept_to(tmp_path: Path) -> None:
    async def run() -> None:
        async with played(tmp_path / "s") as worker:
            client = ModelClient(lambda: tmp_path / "s", 100)
            worker.answers = [error(503, "later", Connection="close")]
            assert (await client.request("POST", "/v2/models/m/infer", b"", LENGTH)).status == 503
            assert (await client.request("GET", "/v2/models/m")).status == 200
            assert worker.connections == 2
            client.close()

    asyncio.run(run())


def test_no_answer_no_socket_and_too_much_are_named(tmp_path: Path) -> None:
    async def run() -> None:
        async with played(tmp_path / "s") as worker:
            client = ModelClient(lambda: tmp_path / "s", 100, timeout_s=0.05)
            worker.hold = asyncio.Event()
            with pytest.raises(WorkerTimeout, match="no answer"):
                await client.request("POST", "/v2/models/m/infer", b"", LENGTH)
            worker.hold.set()
            await asyncio.sleep(0.02)
            worker.answers = [error(200, "x" * 200)]
            with pytest.raises(WorkerError, match="a message takes 100"):
                await client.request("POST", "/v2/models/m/infer", b"", LENGTH)
            with pytest.raises(WorkerError, match="not in service"):
                await ModelClient(lambda: None, 100).request("GET", "/v2/models/m")
            with pytest.raises(WorkerError, match="no connection"):
                await ModelClient(lambda: tmp_path / "none", 100).request("GET", "/v2/models/m")
            await until(lambda: worker.connections == 2)
            client.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    "junk", [b"HTTP/1.1\r\n\r\n", b"x" * 20_000, b"HTTP/1.1 200 X\r\nContent-Length: a\r\n\r\n"]
)
def test_what_is_no_http_is_an_error(tmp_path: Path, junk: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(junk)
        writer.close()

    async def run() -> None:
        server = await asyncio.start_unix_server(serve, tmp_path / "s")
        with pytest.raises(WorkerError):
            await ModelClient(lambda: tmp_path / "s", 100).request("GET", "/v2/models/m")
        server.close()
        await asyncio.sleep(0.01)

    asyncio.run(run())
