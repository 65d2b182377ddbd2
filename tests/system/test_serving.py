"""Serving with real worker processes: protocol, flips, crashes, abuse."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.errors import GoldenMismatch, ModelLoadError, TensorError, WorkerCrashed, WorkerError
from agent.serving.door.front_door import FrontDoor
from agent.serving.events import PoolEvent
from agent.serving.pool import Pool
from agent.serving.spec import WorkerSpec
from tests.system.serving_models import bare_node, make_spec

BODY = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}


class Node:
    """A pool and a front door with the models ``double`` (y = 2x) and ``triple`` served."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.events: list[PoolEvent] = []
        self.pool = Pool(root / "run", self.events.append)
        self.door = FrontDoor(self.pool, "127.0.0.1:0", root / "run/http.sock", bare_node)

    async def __aenter__(self) -> Node:
        await self.door.start()
        try:
            for name, factor in (("double", 2.0), ("triple", 3.0)):
                worker = await self.pool.start(make_spec(self.root, name, factor))
                await worker.check()
                assert await self.pool.route(name, worker) is None
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.door.stop()
        await self.pool.close()

    @property
    def port(self) -> int:
        assert self.door.address is not None
        return self.door.address[1]

    def pid(self, model: str) -> int:
        status = self.pool.status(model)
        assert status is not None and status.pid is not None
        return status.pid

    async def until(self, condition: Callable[[], bool], seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.events
            await asyncio.sleep(0.01)


@contextlib.contextmanager
def connected(node: Node) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=20)
    try:
        yield connection
    finally:
        connection.close()


def ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, Any]:
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    names = {key.replace("_", "-"): value for key, value in headers.items()}
    connection.request(method, path, data, names)
    response = connection.getresponse()
    content = response.read()
    return response.status, json.loads(content) if content else None


def infer(connection: http.client.HTTPConnection, model: str) -> tuple[int, Any]:
    return ask(connection, "POST", f"/v2/models/{model}/infer", BODY)


def scenario(tmp_path: Path, steps: Callable[[Node], Awaitable[None]]) -> None:
    async def run() -> None:
        async with Node(tmp_path) as node:
            await steps(node)

    asyncio.run(run())


def test_a_keep_alive_connection_serves_models_and_the_server(tmp_path: Path) -> None:
    def client(node: Node) -> None:
        with connected(node) as connection:
            connection.connect()
            first = connection.sock
            for _ in range(3):
                status, answer = infer(connection, "double")
                assert (status, answer["outputs"][0]["data"]) == (200, [2, 4, 6, 8])
                assert (answer["model_name"], answer["model_version"]) == ("double", "1.0")
                assert ask(connection, "GET", "/v2/health/ready") == (200, {"ready": True})
                assert infer(connection, "triple")[1]["outputs"][0]["data"] == [3, 6, 9, 12]
                assert ask(connection, "GET", "/v2")[1]["extensions"][0] == "binary_tensor_data"
                assert ask(connection, "GET", "/v2/models/triple/versions/1.0/ready")[0] == 200
                metadata = ask(connection, "GET", "/v2/models/double")[1]
                assert metadata["versions"] == ["1.0"]
                assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
            assert connection.sock is first, "the connection was not kept alive"

    async def steps(node: Node) -> None:
        await asyncio.to_thread(client, node)

    scenario(tmp_path, steps)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def test_unix_sockets_of_the_front_door_and_of_a_model(tmp_path: Path) -> None:
    def client(node: Node) -> None:
        door, own = node.root / "run/http.sock", node.root / "run/models/double.sock"
        for path in (door, own):
            assert path.stat().st_mode & 0o777 == 0o660
            connection = UnixConnection(path)
            assert infer(connection, "double")[1]["outputs"][0]["data"] == [2, 4, 6, 8]
            assert ask(connection, "GET", "/v2/health/live") == (200, {"live": True})
            assert infer(connection, "triple")[0] == (200 if path == door else 404)
            for call in ("GET /v2/models/stats", "POST /v2/repository/index"):
                assert ask(connection, *call.split())[0] == (200 if path == door else 404)
            assert infer(connection, "double")[0] == 200
            connection.close()

    async def steps(node: Node) -> None:
        await asyncio.to_thread(client, node)

    scenario(tmp_path, steps)


def test_unmodified_tritonclient(tmp_path: Path) -> None:
    def client(node: Node) -> None:
        import tritonclient.http as triton

        with triton.InferenceServerClient(f"127.0.0.1:{node.port}") as server:
            assert server.is_server_live() and server.is_server_ready()
            assert server.is_model_ready("double") and not server.is_model_ready("nothing")
            assert server.get_server_metadata()["name"] == "overlaid"
            assert server.get_model_metadata("double", "1.0")["outputs"][0]["name"] == "y"
            x = np.arange(12, dtype=np.float32).reshape(3, 4)
            for binary_in in (True, False):
                for binary_out in (True, False):
                    tensor = triton.InferInput("x", [3, 4], "FP32")
                    tensor.set_data_from_numpy(x, binary_data=binary_in)
                    wanted = triton.InferRequestedOutput("y", binary_data=binary_out)
                    answer = server.infer("double", [tensor], outputs=[wanted], request_id="seven")
                    np.testing.assert_array_equal(answer.as_numpy("y"), 2 * x)
                    assert answer.get_response()["id"] == "seven"
            with pytest.raises(triton.InferenceServerException, match="not served"):
                server.infer("nothing", [tensor])

    async def steps(node: Node) -> None:
        await asyncio.to_thread(client, node)

    scenario(tmp_path, steps)


def test_a_killed_worker_costs_503_for_its_model_only_and_comes_back(tmp_path: Path) -> None:
    async def steps(node: Node) -> None:
        first = node.pid("double")
        away = (tmp_path / "double-1.0.onnx").rename(tmp_path / "away")
        os.kill(first, signal.SIGKILL)
        await node.until(lambda: node.pool.worker("double") is None)

        def while_down() -> None:
            with connected(node) as connection:
                connection.request("POST", "/v2/models/double/infer", json.dumps(BODY))
                response = connection.getresponse()
                assert response.status == 503 and response.getheader("Retry-After") == "1"
                assert "restarted" in json.loads(response.read())["error"]
                assert infer(connection, "triple")[0] == 200
                assert ask(connection, "GET", "/v2/health/ready")[0] == 503
                assert ask(connection, "GET", "/v2/health/live")[0] == 200

        def queued() -> tuple[int, Any]:
            connection = UnixConnection(node.root / "run/models/double.sock")
            try:
                return infer(connection, "double")
            finally:
                connection.close()

        waiting = asyncio.create_task(asyncio.to_thread(queued))
        await asyncio.to_thread(while_down)
        away.rename(tmp_path / "double-1.0.onnx")
        await node.pool.restart("double")
        assert (await waiting)[0] == 200  # the model's own socket queues connections
        await node.until(lambda: node.pool.worker("double") is not None)
        with connected(node) as connection:
            assert (await asyncio.to_thread(infer, connection, "double"))[0] == 200
        status = node.pool.status("double")
        assert status is not None and status.restarts == 1 and status.pid != first
        crash, *_, restarted = [event for event in node.events if event.kind != "stats"]
        assert crash.kind == "crashed" and "SIGKILL" in crash.text and restarted.kind == "restarted"

    scenario(tmp_path, steps)


def test_a_model_that_cannot_start_is_given_up_until_asked_again(tmp_path: Path) -> None:
    async def steps(node: Node) -> None:
        model = tmp_path / "double-1.0.onnx"
        intact = model.read_bytes()
        model.write_bytes(b"corrupt")
        os.kill(node.pid("double"), signal.SIGKILL)
        await node.until(lambda: any(event.kind == "gave-up" for event in node.events), 60)
        causes = [event.text for event in node.events if event.kind == "crashed"]
        assert len(causes) == 5 and "SIGKILL" in causes[0] and "ONNX Runtime" in causes[4]
        assert node.pool.serves("double") and node.pool.worker("triple") is not None
        model.write_bytes(intact)
        await node.pool.restart("double")
        await node.until(lambda: node.pool.worker("double") is not None)
        with connected(node) as connection:
            assert (await asyncio.to_thread(infer, connection, "double"))[0] == 200

    scenario(tmp_path, steps)


def test_no_request_fails_while_versions_flip(tmp_path: Path) -> None:
    stop = False

    def hammer(connection: http.client.HTTPConnection, reconnect: bool) -> set[float]:
        seen = set()
        while not stop:
            status, answer = infer(connection, "double")
            assert status == 200, answer
            value = answer["outputs"][0]["data"][0]
            assert value == {"1.0": 2, "2.0": 20}[answer["model_version"]]
            seen.add(value)
            if reconnect:
                connection.close()
        connection.close()
        return seen

    async def steps(node: Node) -> None:
        nonlocal stop

        def tcp() -> http.client.HTTPConnection:
            return http.client.HTTPConnection("127.0.0.1", node.port, timeout=20)

        def unix() -> http.client.HTTPConnection:
            return UnixConnection(node.root / "run/models/double.sock")

        clients = [
            asyncio.create_task(asyncio.to_thread(hammer, make(), reconnect))
            for reconnect in (False, True)
            for make in (tcp, unix)
        ]
        try:
            new = await node.pool.start(make_spec(node.root, "double", 20.0, version="2.0"))
            for _ in range(5):
                old = await node.pool.route("double", new)
                await asyncio.sleep(0.1)
                assert old is not None
                assert await node.pool.route("double", old) is new  # back again: it was alive
                await asyncio.sleep(0.1)
            await node.pool.restart("double")
            old = await node.pool.route("double", new)
            assert old is not None
            await node.pool.stop(old)
            await asyncio.sleep(0.1)
        finally:
            stop = True
            results = await asyncio.gather(*clients)
        assert results == [{2, 20}] * 4
        status = node.pool.status("double")
        assert status is not None and status.version == "2.0" and status.errors == 0

    scenario(tmp_path, steps)


def test_bad_requests_get_their_error_and_harm_nobody(tmp_path: Path) -> None:
    def tensor(**change: Any) -> dict[str, Any]:
        return {"inputs": [{**BODY["inputs"][0], **change}]}

    path = "/v2/models/double/infer"
    cases: list[tuple[str, str, Any, dict[str, str], int, str]] = [
        ("POST", path, b"{", {}, 400, "not valid JSON"),
        ("POST", path, b"[" * 100_000, {}, 400, "JSON"),
        ("POST", path, b"", {}, 400, "not valid JSON"),
        ("POST", path, tensor(shape=[1, 5]), {}, 400, "does not fit"),
        ("POST", path, tensor(shape=[-1, 4]), {}, 400, "positive"),
        ("POST", path, tensor(shape=[2, 4]), {}, 400, "4 values"),
        ("POST", path, tensor(datatype="INT8"), {}, 400, "FP32"),
        ("POST", path, tensor(name="z"), {}, 400, "unknown"),
        ("POST", path, b"x" * (2 << 20), {}, 413, "takes 1048576"),
        ("POST", path, BODY, {"Content_Type": "text/plain"}, 415, "text/plain"),
        ("POST", path, BODY, {"Content_Encoding": "gzip"}, 400, "not gzip"),
        ("POST", path, BODY, {"Content_Encoding": "br"}, 415, "br"),
        ("GET", path, None, {}, 405, "POST"),
        ("POST", "/v2/health/live", b"hello", {}, 405, "GET"),
        ("POST", "/v2/repository/index", b"[1]", {}, 400, "object"),
        ("POST", "/v2/repository/index", b"{}", {"Content_Type": "text/plain"}, 415, "text/plain"),
        ("POST", "/v2/repository/index", b" " * 65537, {}, 413, "65536"),
        ("POST", "/v2/repository/models/double/unload", b"{}", {}, 403, "overlaid undeploy"),
        ("POST", "/v2/models/double/versions/9/infer", BODY, {}, 404, "1.0"),
        ("GET", "/v2/models/nothing", None, {}, 404, "not served"),
        ("GET", "/v2/models/double/nothing", None, {}, 404, "unknown"),
        ("GET", "/nothing", None, {}, 404, "/openapi.json"),
    ]

    def client(node: Node) -> None:
        for method, target, body, headers, want, text in cases:
            with connected(node) as connection:
                status, answer = ask(connection, method, target, body, **headers)
                assert (status, text in answer["error"]) == (want, True), (method, target, status, answer)
                connection.close()
                assert infer(connection, "double")[0] == 200
        assert raw(node, b"GET / HTTP/1.1\r\nbad header\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        assert raw(node, b"GET /v2 HTTP/1.1\r\nX: " + b"x" * 20_000).startswith(b"HTTP/1.1 431 ")
        assert raw(node, b"POST " + path.encode() + b" HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 411 ")
        chunked = b"POST " + path.encode() + b" HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        assert raw(node, chunked).startswith(b"HTTP/1.1 501 ")
        truncated = raw(
            node, b"POST " + path.encode() + b" HTTP/1.1\r\nContent-Length: 100\r\n\r\n{", eof=True
        )
        assert truncated.startswith(b"HTTP/1.1 400 ") and b"1 of 100 bytes" in truncated
        allow = raw(node, b"DELETE /v2/models/double HTTP/1.1\r\n\r\n")
        assert allow.startswith(b"HTTP/1.1 405 ") and b"\r\nAllow: GET, HEAD, OPTIONS\r\n" in allow

    async def steps(node: Node) -> None:
        pid = node.pid("double")
        await asyncio.to_thread(client, node)
        assert node.pid("double") == pid
        await node.until(lambda: any(event.kind == "stats" for event in node.events))
        assert all(event.kind == "stats" and event.errors == 0 for event in node.events)

    scenario(tmp_path, steps)


def raw(node: Node, data: bytes, eof: bool = True) -> bytes:
    """Send bytes, read until the server closes."""
    with socket.create_connection(("127.0.0.1", node.port), timeout=20) as sock:
        sock.sendall(data)
        if eof:
            sock.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
        return answer


def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    def request(model: str) -> bytes:
        body = json.dumps(BODY).encode()
        return b"POST /v2/models/%s/infer HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (
            model.encode(),
            len(body),
            body,
        )

    async def steps(node: Node) -> None:
        data = b"".join([request("double"), b"GET /v2/health/live HTTP/1.1\r\n\r\n", request("triple")] * 20)
        answer = await asyncio.to_thread(raw, node, data)
        assert answer.count(b"HTTP/1.1 200 OK") == 60
        values = [piece[:3] for piece in answer.split(b'"data":[')[1:]]
        assert values == [b"2.0", b"3.0"] * 20

    scenario(tmp_path, steps)


def test_a_slow_head_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.serving.http.connection.HEAD_S", 0.1)

    async def steps(node: Node) -> None:
        answer = await asyncio.to_thread(raw, node, b"GET /v2 HT", False)
        assert answer.startswith(b"HTTP/1.1 408 ")

    scenario(tmp_path, steps)


def test_those_who_say_nothing_or_say_it_slowly_make_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.serving.http.connections.MAX_CONNECTIONS", 3)

    async def steps(node: Node) -> None:
        held = [socket.create_connection(("127.0.0.1", node.port), timeout=20) for _ in range(3)]
        held[0].sendall(b"GET ")
        await asyncio.sleep(0.05)
        for _ in range(3):
            answer = await asyncio.to_thread(raw, node, b"GET /v2 HTTP/1.1\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200 ")
        more = [socket.create_connection(("127.0.0.1", node.port), timeout=20) for _ in range(3)]
        answers = [await asyncio.to_thread(sock.recv, 100) for sock in held]
        assert answers[0].startswith(b"HTTP/1.1 408 ") and answers[1:] == [b"", b""]
        for sock in (*held, *more):
            sock.close()
        with connected(node) as connection:
            assert (await asyncio.to_thread(infer, connection, "double"))[0] == 200

    scenario(tmp_path, steps)


def test_newcomers_do_not_push_each_other_out_while_slow_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.serving.http.connections.MAX_CONNECTIONS", 20)

    async def steps(node: Node) -> None:
        slow = [socket.create_connection(("127.0.0.1", node.port), timeout=20) for _ in range(20)]
        for sock in slow:
            sock.sendall(b"GET ")
        await asyncio.sleep(0.2)
        new = [socket.create_connection(("127.0.0.1", node.port), timeout=20) for _ in range(20)]
        for sock in new:  # all before the door looks again: it accepts some, then some more, then reads
            sock.sendall(b"GET /v2 HTTP/1.1\r\n\r\n")
        for sock in new:
            assert (await asyncio.to_thread(sock.recv, 100)).startswith(b"HTTP/1.1 200 ")
        for sock in (*slow, *new):
            sock.close()

    scenario(tmp_path, steps)


def test_runs_that_may_be_long_leave_the_connection_in_order(tmp_path: Path) -> None:
    async def steps(node: Node) -> None:
        # Neither checked nor profiled: its runs count as long and go to the inference thread.
        new = await node.pool.start(make_spec(node.root, "double", 20.0, version="2.0"))
        await node.pool.route("double", new)
        body = json.dumps(BODY).encode()
        request = b"POST /v2/models/double/infer HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        bad = request.replace(b"FP32", b"INT8")
        answer = await asyncio.to_thread(raw, node, (request + bad) * 5)
        assert answer.count(b" 200 OK") == 5 and answer.count(b" 400 Bad") == 5
        assert answer.index(b" 200 OK") < answer.index(b" 400 Bad")

    scenario(tmp_path, steps)


def test_profile_and_statistics(tmp_path: Path) -> None:
    async def steps(node: Node) -> None:
        worker = node.pool.worker("double")
        assert worker is not None and worker.load_s > 0 and worker.memory_mb > 1
        times = await worker.profile(5.0, 50)
        assert len(times) == 50 and all(0 < seconds < 5 for seconds in times)
        with connected(node) as connection:
            for _ in range(7):
                await asyncio.to_thread(infer, connection, "double")
        await node.until(lambda: node.pool.status("double").requests == 7)  # type: ignore[union-attr]
        status = node.pool.status("double")
        assert status is not None and status.histogram.total == 7 and status.errors == 0
        stats = [event.histogram for event in node.events if event.kind == "stats"]
        assert sum(histogram.total for histogram in stats if histogram is not None) == 7

    scenario(tmp_path, steps)


def test_unrouted_models_are_unknown(tmp_path: Path) -> None:
    async def steps(node: Node) -> None:
        worker = node.pool.worker("double")
        with connected(node) as connection:
            assert (await asyncio.to_thread(infer, connection, "double"))[0] == 200
            await node.pool.unroute("double")
            assert (await asyncio.to_thread(infer, connection, "double"))[0] == 404
        assert node.pool.status("double") is None and worker is not None and worker.gone.is_set()
        assert not (node.root / "run/models/double.sock").exists()

    scenario(tmp_path, steps)


@pytest.mark.parametrize(
    ("spoil", "error", "text"),
    [
        ("golden", GoldenMismatch, "got 6, golden 7.5"),
        ("golden size", TensorError, "golden file"),
        ("model", ModelLoadError, "double"),
    ],
)
def test_a_bad_package_is_refused_with_its_own_error(
    tmp_path: Path, spoil: str, error: type[Exception], text: str
) -> None:
    spec = make_spec(tmp_path, "double", 2.0, golden_factor=2.5 if spoil == "golden" else None)
    if spoil == "golden size":
        next(iter(spec.golden.inputs.values())).write_bytes(b"123")
    if spoil == "model":
        spec.file.path.write_bytes(spec.file.path.read_bytes()[:20])

    async def run() -> None:
        pool = Pool(tmp_path / "run", lambda event: None)
        try:
            with pytest.raises(error, match=text):
                await (await pool.start(spec)).check()
        finally:
            await pool.close()

    asyncio.run(run())


def test_a_dead_worker_is_not_routed(tmp_path: Path) -> None:
    async def steps(node: Node) -> None:
        new = await node.pool.start(make_spec(node.root, "double", 20.0, version="2.0"))
        os.kill(new.pid, signal.SIGSEGV)
        with pytest.raises(WorkerCrashed, match="SIGSEGV"):
            await node.pool.route("double", new)
        with connected(node) as connection:
            answer = await asyncio.to_thread(infer, connection, "double")
        assert answer[1]["model_version"] == "1.0"

    scenario(tmp_path, steps)


def test_no_descriptor_is_left_behind(tmp_path: Path) -> None:
    async def steps(node: Node) -> None:
        def use() -> None:
            with connected(node) as connection:
                for model in ("double", "triple"):
                    assert infer(connection, model)[0] == 200

        def count() -> tuple[int, int]:
            return _descriptors(os.getpid()), _descriptors(node.pid("double"))

        await asyncio.to_thread(use)
        await asyncio.sleep(0.1)
        before = count()
        for _ in range(50):
            await asyncio.to_thread(use)
        await node.until(lambda: count() <= before)

    scenario(tmp_path, steps)


def test_workers_do_not_outlive_a_killed_daemon(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys, pathlib\n"
        "from agent.serving.pool import Pool\n"
        "from agent.serving.spec import WorkerSpec\n"
        "async def main():\n"
        "    pool = Pool(pathlib.Path(sys.argv[2]), print)\n"
        "    worker = await pool.start(WorkerSpec.from_json(pathlib.Path(sys.argv[1]).read_bytes()))\n"
        "    assert 'numpy' not in sys.modules\n"
        "    print(worker.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    spec: WorkerSpec = replace(make_spec(tmp_path, "double", 2.0), version="orphan")
    (tmp_path / "spec.json").write_bytes(spec.to_json())
    command = [sys.executable, "-c", script, str(tmp_path / "spec.json"), str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout is not None
        worker = int(daemon.stdout.readline())
        assert Path(f"/proc/{worker}").exists()
        daemon.kill()
    deadline = time.monotonic() + 10
    while _alive(worker):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _alive(pid: int) -> bool:
    """False for a process that is gone or a zombie that nobody has collected yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_model_that_is_held_back_says_why_and_serves_again(tmp_path: Path) -> None:
    def held(node: Node) -> None:
        with connected(node) as door, model_socket(node) as own:
            for connection in (door, own):
                status, answer = infer(connection, "double")
                assert status == 503 and "is not run now: cap 6 W" in answer["error"]
                assert ask(connection, "GET", "/v2/models/double/ready")[0] == 503

    def serves(node: Node) -> None:
        with connected(node) as door, model_socket(node) as own:
            assert [infer(connection, "double")[0] for connection in (door, own)] == [200, 200]

    async def steps(node: Node) -> None:
        worker = node.pool.worker("double")
        assert worker is not None
        with connected(node) as idle, model_socket(node) as own:
            for connection in (idle, own):
                assert (await asyncio.to_thread(infer, connection, "double"))[0] == 200
            await node.pool.hold(worker.spec, "cap 6 W")
            assert worker.gone.is_set()
            status = node.pool.status("double")
            assert status is not None and not status.ready and "cap 6 W" in status.why
            for connection in (idle, own):  # connections that the worker had are not broken
                assert (await asyncio.to_thread(infer, connection, "double"))[0] == 503
            await asyncio.to_thread(held, node)
            with pytest.raises(WorkerError, match="cap 6 W"):
                await node.pool.restart("double")
            fresh = await node.pool.start(worker.spec)
            assert await node.pool.route("double", fresh) is None
            for connection in (idle, own):
                assert (await asyncio.to_thread(infer, connection, "double"))[0] == 200
        await asyncio.to_thread(serves, node)
        await node.pool.hold(fresh.spec, "again")
        await node.pool.unroute("double")
        assert node.pool.status("double") is None and not node.pool.serves("double")

    scenario(tmp_path, steps)


class ModelSocket(http.client.HTTPConnection):
    """Connections to the model's own socket, a new one after each that the server has closed."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(20)
        self.sock.connect(str(self._path))


@contextlib.contextmanager
def model_socket(node: Node) -> Iterator[http.client.HTTPConnection]:
    with contextlib.closing(ModelSocket(node.root / "run/models/double.sock")) as connection:
        yield connection
