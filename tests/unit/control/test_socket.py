"""Server and client of the control socket, over a real socket."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from agent.control import client
from agent.control.server import MAX_CLIENTS, MAX_REQUEST_BYTES, ControlServer
from agent.errors import ControlError, DaemonNotRunning, MessageError, NoFeasibleCandidate

Answer = dict[str, Any]


async def echo(request: Answer) -> AsyncIterator[Answer]:
    op = request["op"]
    if op == "refuse":
        raise NoFeasibleCandidate("nothing fits")
    if op == "break":
        raise RuntimeError("secret detail")
    if op == "steps":
        for share in (0.25, 0.5):
            yield {"progress": {"share": share}}
    if op == "hang":
        await asyncio.Event().wait()
    if op == "long":
        yield {"ok": "x" * (1 << 20)}
    elif op != "silent":
        yield {"ok": request}


def serving(
    path: Path, use: Callable[[ControlServer], Awaitable[Any]], request_timeout_s: float = 5.0
) -> Any:
    async def run() -> Any:
        server = ControlServer(path, echo, request_timeout_s=request_timeout_s)
        await server.start()
        try:
            return await use(server)
        finally:
            await server.stop()

    return asyncio.run(run())


def calling(path: Path, op: str, **args: Any) -> Any:
    return serving(path, lambda _: asyncio.to_thread(lambda: list(client.call(path, op, **args))))


def raw(path: Path, data: bytes, **options: Any) -> Any:
    """Send bytes as they are; the server's whole answer."""

    def talk() -> Any:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(path))
            connection.sendall(data)
            received = b"".join(iter(lambda: connection.recv(65536), b""))
            return json.loads(received)

    return serving(path, lambda _: asyncio.to_thread(talk), **options)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "control.sock"


def test_progress_comes_before_the_final_answer(path: Path) -> None:
    answers = calling(path, "steps", model="digits")
    assert answers == [
        {"progress": {"share": 0.25}},
        {"progress": {"share": 0.5}},
        {"ok": {"op": "steps", "model": "digits"}},
    ]


def test_named_errors_cross_the_socket(path: Path) -> None:
    with pytest.raises(NoFeasibleCandidate, match="nothing fits"):
        calling(path, "refuse")


def test_a_bug_in_the_daemon_is_told_without_its_details(path: Path) -> None:
    with pytest.raises(ControlError, match="RuntimeError") as caught:
        calling(path, "break")
    assert "secret" not in str(caught.value)


def test_no_final_answer_is_an_error(path: Path) -> None:
    with pytest.raises(ControlError, match="no answer"):
        calling(path, "silent")


def test_a_long_answer_arrives_whole(path: Path) -> None:
    assert len(calling(path, "long")[0]["ok"]) == 1 << 20


def test_the_socket_is_for_owner_and_group_and_goes_away(path: Path) -> None:
    async def mode(_: ControlServer) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    assert serving(path, mode) == 0o660
    assert not path.exists()


@pytest.mark.parametrize(
    ("request_bytes", "part"),
    [
        (b"not json\n", "not JSON"),
        (b"\xff\xfe\n", "not JSON"),
        (b"[" * 60_000 + b"\n", "not JSON"),
        (b"[1]\n", "JSON object"),
        (b'{"op": 5}\n', "JSON object"),
        (b'{"op": "' + b"x" * MAX_REQUEST_BYTES + b'"}\n', "longer than"),
    ],
)
def test_malformed_requests_get_a_named_error(path: Path, request_bytes: bytes, part: str) -> None:
    error = raw(path, request_bytes)["error"]
    assert error["name"] == "MessageError"
    assert part in error["text"]


def test_a_client_that_sends_nothing_is_let_go(path: Path) -> None:
    assert "no request within" in raw(path, b'{"op"', request_timeout_s=0.05)["error"]["text"]


def test_too_many_clients_are_told_and_the_others_go_on(path: Path) -> None:
    async def crowd(_: ControlServer) -> tuple[bytes, bytes]:
        crowd = [await asyncio.open_unix_connection(path) for _ in range(MAX_CLIENTS)]
        await asyncio.sleep(0.05)
        reader, writer = await asyncio.open_unix_connection(path)
        refused = await reader.readline()
        first_reader, first_writer = crowd[0]
        first_writer.write(b'{"op": "echo"}\n')
        answered = await first_reader.readline()
        for each in [*(connection[1] for connection in crowd), writer]:
            each.close()
        return refused, answered

    refused, answered = serving(path, crowd)
    assert "32 clients" in json.loads(refused)["error"]["text"]
    assert json.loads(answered) == {"ok": {"op": "echo"}}


def test_stop_ends_a_request_that_hangs(path: Path) -> None:
    async def hang(server: ControlServer) -> bytes:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b'{"op": "hang"}\n')
        await asyncio.sleep(0.05)
        await asyncio.wait_for(server.stop(), 5)
        rest = await reader.read()
        writer.close()
        return rest

    assert serving(path, hang) == b""


def test_a_second_daemon_does_not_take_the_socket(path: Path) -> None:
    async def second(_: ControlServer) -> Any:
        with pytest.raises(ControlError, match="another overlaid answers"):
            await ControlServer(path, echo).start()
        return await asyncio.to_thread(client.ask, path, "echo")

    assert serving(path, second) == {"op": "echo"}


def test_the_socket_of_a_killed_daemon_is_replaced(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    assert calling(path, "echo") == [{"ok": {"op": "echo"}}]


def test_a_file_in_the_way_is_not_removed(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("mine")
    with pytest.raises(ControlError, match="not a socket"):
        calling(path, "echo")
    assert path.read_text() == "mine"


def test_a_path_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    far = tmp_path / ("x" * 120) / "control.sock"
    with pytest.raises(ControlError, match=r"paths\.runtime"):
        calling(far, "echo")
    with pytest.raises(ControlError, match=r"paths\.runtime"):
        client.ask(far, "echo")


def test_nobody_listens(path: Path) -> None:
    with pytest.raises(DaemonNotRunning, match="overlaid run"):
        client.ask(path, "snapshot")
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with pytest.raises(DaemonNotRunning):
        client.ask(path, "snapshot")


def test_a_daemon_that_hangs_is_named(path: Path) -> None:
    with pytest.raises(ControlError, match="did not answer within"):
        calling(path, "hang", timeout_s=0.1)


@pytest.mark.parametrize(
    ("reply", "part"),
    [
        (b"", "without an answer"),
        (b'{"ok": 1}', "cut off"),
        (b"nonsense\n", "not JSON"),
        (b"[]\n", "no known form"),
        (b'{"error": "text"}\n', "no known form"),
    ],
)
def test_broken_answers_are_named(path: Path, reply: bytes, part: str) -> None:
    path.parent.mkdir()

    async def run() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(reply)
            writer.close()

        async with await asyncio.start_unix_server(answer, path):
            with pytest.raises(ControlError, match=part):
                await asyncio.to_thread(client.ask, path, "echo")

    asyncio.run(run())


def test_a_request_cut_off_is_named(path: Path) -> None:
    async def cut(_server: ControlServer) -> Any:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b'{"op": "echo"}')
        writer.write_eof()
        line = await reader.readline()
        writer.close()
        return json.loads(line)["error"]

    error = serving(path, cut)
    assert error["name"] == MessageError.__name__
    assert "newline" in error["text"]
