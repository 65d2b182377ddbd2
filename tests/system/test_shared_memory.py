"""Shared memory with real workers: both ways of registering it, and everything that must not work."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import mmap
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import uuid
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException
from tritonclient.utils import shared_memory as shm

from agent.serving.client import Client
from agent.serving.door.front_door import FrontDoor
from tests.system.serving_models import bare_node
from tests.system.test_serving import Node, ask, connected

STATUS = "/v2/systemsharedmemory/status"
X = np.arange(8, dtype=np.float32).reshape(2, 4)
SHM = Path("/dev/shm")


class SharedNode(Node):
    """With shared memory on."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.door = FrontDoor(self.pool, "127.0.0.1:0", root / "run/http.sock", bare_node, shared_memory=True)

    def regions(self) -> list[dict[str, Any]]:
        with connected(self) as connection:
            status, found = ask(connection, "GET", STATUS)
        assert status == 200
        return list(found)


def scenario(root: Path, client: Callable[[Any], None], kind: Callable[[Path], Node] = SharedNode) -> None:
    """Run ``client`` in a thread beside a node."""

    async def run() -> None:
        async with kind(root) as node:
            await asyncio.to_thread(client, node)

    asyncio.run(run())


def until(condition: Callable[[], Any], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextlib.contextmanager
def posix(size: int = 4096) -> Iterator[str]:
    """The key of a file in /dev/shm."""
    path = SHM / f"overlaid-test-{uuid.uuid4().hex}"
    path.write_bytes(bytes(size))
    try:
        yield path.name
    finally:
        path.unlink(missing_ok=True)


def test_a_clients_arrays_are_read_and_written_in_place(tmp_path: Path) -> None:
    def client(node: SharedNode) -> None:
        with Client(node.root / "run/http.sock") as client:
            x, y = client.shared((4, 4)), client.shared((2, 4))
            x[1:3] = X
            for model, factor in (("double", 2), ("triple", 3)):
                y[:] = 0
                answer = client.infer(model, {"x": x[1:3]}, {"y": y})["y"]
                assert answer is y and np.array_equal(y, X * factor)
            with Client(node.root / "run/models/double.sock") as direct:
                assert np.array_equal(direct.infer("double", {"x": x})["y"], x * 2)
            assert sorted(region["byte_size"] for region in node.regions()) == [32, 64]
        until(lambda: node.regions() == [])
        assert np.array_equal(x[1:3], X)  # the arrays outlive the client

    scenario(tmp_path, client)


def test_a_restarted_worker_knows_the_regions(tmp_path: Path) -> None:
    def client(node: SharedNode) -> None:
        with Client(node.root / "run/http.sock", retry_s=20) as client:
            x = client.shared(X.shape)
            x[:] = X
            client.infer("double", {"x": x})
            os.kill(before := node.pid("double"), signal.SIGKILL)
            until(lambda: (now := node.pool.status("double")) and now.pid not in (None, before))
            assert np.array_equal(client.infer("double", {"x": x})["y"], X * 2)

    scenario(tmp_path, client)


def test_a_restarted_daemon_forgets_them_and_the_client_registers_again(tmp_path: Path) -> None:
    async def restarted() -> None:
        with Client(tmp_path / "run/http.sock") as client:
            async with SharedNode(tmp_path):
                x = await asyncio.to_thread(client.shared, X.shape)
                x[:] = X
                await asyncio.to_thread(client.infer, "double", {"x": x})
            async with SharedNode(tmp_path) as node:
                with connected(node) as connection:
                    status, answer = await asyncio.to_thread(
                        ask, connection, "POST", "/v2/models/double/infer", reading("lost")
                    )
                assert status == 404 and "register it" in answer["error"]
                assert np.array_equal((await asyncio.to_thread(client.infer, "double", {"x": x}))["y"], X * 2)

    asyncio.run(restarted())


def reading(region: str) -> dict[str, Any]:
    """A request whose input is the first 32 bytes of a region."""
    where = {"shared_memory_region": region, "shared_memory_byte_size": 32}
    return {"inputs": [{"name": "x", "shape": [2, 4], "datatype": "FP32", "parameters": where}]}


def test_tritonclients_system_shared_memory_works_unmodified(tmp_path: Path) -> None:
    def client(node: SharedNode) -> None:
        key = f"overlaid-test-{uuid.uuid4().hex}"
        handle = shm.create_shared_memory_region("in-and-out", key, 128)
        try:
            with InferenceServerClient(f"127.0.0.1:{node.port}") as triton:
                triton.register_system_shared_memory("in-and-out", key, 128)
                known = {"name": "in-and-out", "key": key, "offset": 0, "byte_size": 128}
                assert triton.get_system_shared_memory_status() == [known]
                assert triton.get_system_shared_memory_status("in-and-out") == [known]
                shm.set_shared_memory_region(handle, [X])
                tensor, output = InferInput("x", [2, 4], "FP32"), InferRequestedOutput("y")
                tensor.set_shared_memory("in-and-out", 32)
                output.set_shared_memory("in-and-out", 32, 64)
                answer = triton.infer("double", [tensor], outputs=[output])
                assert answer.get_output("y")["parameters"]["shared_memory_region"] == "in-and-out"
                assert np.array_equal(shm.get_contents_as_numpy(handle, np.float32, [2, 4], 64), X * 2)

                with pytest.raises(InferenceServerException, match="registered already"):
                    triton.register_system_shared_memory("in-and-out", key, 128)
                output.set_shared_memory("in-and-out", 32, 97)
                with pytest.raises(InferenceServerException, match="outside of"):
                    triton.infer("double", [tensor], outputs=[output])
                output.set_shared_memory("in-and-out", 31)
                with pytest.raises(InferenceServerException, match="32 bytes"):
                    triton.infer("double", [tensor], outputs=[output])

                triton.unregister_system_shared_memory("in-and-out")
                triton.unregister_system_shared_memory("in-and-out")
                with pytest.raises(InferenceServerException, match="not registered"):
                    triton.infer("double", [tensor])
                with pytest.raises(InferenceServerException, match="not registered"):
                    triton.get_system_shared_memory_status("in-and-out")
                for name, offset in (("a", 0), ("b", 64)):
                    triton.register_system_shared_memory(name, key, 64, offset)
                triton.unregister_system_shared_memory()
                assert triton.get_system_shared_memory_status() == []
        finally:
            shm.destroy_shared_memory_region(handle)

    scenario(tmp_path, client)


def test_a_file_that_is_cut_while_registered_gives_errors(tmp_path: Path) -> None:
    def client(node: SharedNode) -> None:
        pid = node.pid("double")
        with posix() as key, InferenceServerClient(f"127.0.0.1:{node.port}") as triton:
            triton.register_system_shared_memory("r", key, 4096)
            tensor, output = InferInput("x", [2, 4], "FP32"), InferRequestedOutput("y")
            tensor.set_shared_memory("r", 32, 4064)
            (SHM / key).write_bytes(b"")
            with pytest.raises(InferenceServerException, match="smaller than it was registered"):
                triton.infer("double", [tensor])
            tensor.set_data_from_numpy(X)
            output.set_shared_memory("r", 32)
            with pytest.raises(InferenceServerException, match="smaller than it was registered"):
                triton.infer("double", [tensor], outputs=[output])
            assert (SHM / key).stat().st_size == 0  # nothing grew it again
            assert np.array_equal(triton.infer("double", [tensor]).as_numpy("y"), X * 2)
        until(lambda: node.regions() == [])  # the file was removed: its memory is free
        assert node.pid("double") == pid

    scenario(tmp_path, client)


def test_what_cannot_be_registered(tmp_path: Path) -> None:
    def client(node: SharedNode) -> None:
        with posix() as key, posix() as other, contextlib.ExitStack() as cleanup:
            link, pipe, folder = (SHM / f"{key}-{kind}" for kind in ("link", "pipe", "folder"))
            link.symlink_to(SHM / key)
            cleanup.callback(link.unlink)
            os.mkfifo(pipe)
            cleanup.callback(pipe.unlink)
            folder.mkdir()
            cleanup.callback(folder.rmdir)
            cases: list[tuple[Any, int]] = [
                ({"key": link.name, "byte_size": 8}, 403),
                ({"key": pipe.name, "byte_size": 8}, 403),
                ({"key": folder.name, "byte_size": 8}, 403),
                ({"key": f"../shm/{key}", "byte_size": 8}, 400),
                ({"key": f"//{key}", "byte_size": 8}, 400),
                ({"key": "..", "byte_size": 8}, 400),
                ({"key": "", "byte_size": 8}, 400),
                ({"key": key + "\0", "byte_size": 8}, 400),
                ({"key": 7, "byte_size": 8}, 400),
                ({"key": f"{key}-missing", "byte_size": 8}, 404),
                ({"key": key, "byte_size": 4097}, 400),
                ({"key": key, "byte_size": 8, "offset": 4089}, 400),
                ({"key": key, "byte_size": 8, "offset": -1}, 400),
                ({"key": key, "byte_size": 0}, 400),
                ({"key": key, "byte_size": -8, "offset": 16}, 400),
                ({"key": key, "byte_size": 1 << 63, "offset": 1 << 63}, 400),
                ({"key": key, "byte_size": 8.5}, 400),
                ({"key": key}, 400),
                ({}, 400),
                (b"[" * 60_000, 400),
            ]
            if os.geteuid() == 0:
                os.chown(SHM / other, 12345, -1)
                cases.append(({"key": other, "byte_size": 8}, 403))
            with connected(node) as connection:
                for body, status in cases:
                    got = ask(connection, "POST", "/v2/systemsharedmemory/region/r/register", body)
                    assert got[0] == status and got[1]["error"], (body, got)
                for path in (
                    "register",
                    "region/r",
                    "region//register",
                    "region/r/x/register",
                    "region/r/reg",
                ):
                    assert ask(connection, "POST", f"/v2/systemsharedmemory/{path}", {})[0] in (400, 404), (
                        path
                    )
                assert ask(connection, "GET", "/v2/systemsharedmemory/region/r/register")[0] == 405
                assert ask(connection, "GET", STATUS) == (200, [])
                good = {"key": f"/{key}", "byte_size": 4088, "offset": 8}
                assert ask(connection, "POST", "/v2/systemsharedmemory/region/r/register", good) == (
                    200,
                    None,
                )

    scenario(tmp_path, client)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_regions_are_their_users_own(tmp_path: Path) -> None:
    tasks, stranger = foreign(54321)

    def client(node: SharedNode) -> None:
        with posix() as key, Client(node.root / "run/http.sock") as client:
            x = client.shared(X.shape)
            x[:] = X
            with connected(node) as connection:
                mine = {"key": key, "byte_size": 64}
                assert ask(connection, "POST", "/v2/systemsharedmemory/region/r/register", mine)[0] == 200
            name = next(each["name"] for each in node.regions() if each["name"] != "r")
            calls: list[tuple[str, str, Any]] = [
                ("GET", STATUS, None),
                ("POST", "/v2/systemsharedmemory/region/mine/register", {"key": key, "byte_size": 64}),
                ("POST", "/v2/systemsharedmemory/unregister", None),
                ("POST", "/v2/models/double/infer", reading("r")),
                ("POST", "/v2/models/double/infer", reading(name)),
            ]
            pickle.dump((node.port, calls), tasks)
            tasks.flush()
            answers = pickle.load(stranger)
            assert [status for status, _ in answers] == [200, 403, 200, 404, 404], answers
            assert answers[0][1] == []
            assert len(node.regions()) == 2
            assert np.array_equal(client.infer("double", {"x": x})["y"], X * 2)

    with tasks, stranger:
        scenario(tmp_path, client)


def foreign(uid: int) -> tuple[Any, Any]:
    """A process of another user: pickled (port, calls) in, answers out."""
    read_tasks, write_tasks = os.pipe()
    read_answers, write_answers = os.pipe()
    if os.fork() == 0:
        os.close(write_tasks)
        with os.fdopen(read_tasks, "rb") as tasks, os.fdopen(write_answers, "wb") as answers:
            try:
                os.setgroups([])
                os.setuid(uid)
                port, calls = pickle.load(tasks)
                node = type("There", (), {"port": port})()
                with connected(node) as connection:
                    pickle.dump([ask(connection, *call) for call in calls], answers)
            finally:
                answers.flush()
                os._exit(0)
    os.close(read_tasks)
    os.close(write_answers)
    return os.fdopen(write_tasks, "wb"), os.fdopen(read_answers, "rb")


def test_shared_memory_is_off_unless_turned_on(tmp_path: Path) -> None:
    def client(node: Node) -> None:
        with posix() as key, connected(node) as connection:
            assert not (node.root / "run/shm.sock").exists()
            for method, path, body in (
                ("GET", STATUS, None),
                ("POST", "/v2/systemsharedmemory/region/r/register", {"key": key, "byte_size": 8}),
                ("POST", "/v2/systemsharedmemory/unregister", {}),
                ("POST", "/v2/models/double/infer", reading("r")),
            ):
                status, answer = ask(connection, method, path, body)
                assert status in (400, 404) and "serving.shared_memory = true" in answer["error"]
            assert "system_shared_memory" not in ask(connection, "GET", "/v2")[1]["extensions"]

    scenario(tmp_path, client, Node)


class Raw:
    """A connection to shm.sock without the client's care."""

    def __init__(self, node: SharedNode) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(10)
        self.sock.connect(str(node.root / "run/shm.sock"))

    def ask(self, request: bytes, *fds: int) -> dict[str, Any] | None:
        """The answer; None when the connection was closed."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
        try:
            self.sock.sendmsg([request], rights)
            data = self.sock.recv(4096)
        except (BrokenPipeError, ConnectionResetError):
            return None
        return json.loads(data) if data else None

    def register(self, name: str, fd: int) -> dict[str, Any] | None:
        return self.ask(json.dumps({"op": "register", "name": name}).encode() + b"\n", fd)


def memfd(size: int, seals: int = fcntl.F_SEAL_SHRINK) -> int:
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def test_what_cannot_be_handed_over(tmp_path: Path) -> None:
    def client(node: SharedNode) -> None:
        before = len(list(Path("/proc/self/fd").iterdir()))
        raw = Raw(node)
        file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
        os.truncate(file, 4096)
        cases = [
            (memfd(4096, 0), "F_SEAL_SHRINK"),
            (memfd(4096, fcntl.F_SEAL_GROW), "F_SEAL_SHRINK"),
            (memfd(4096, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE), "writable"),
            (memfd(0), "empty"),
            (file, "F_SEAL_SHRINK"),
            (os.pipe()[0], "F_SEAL_SHRINK"),
            (memfd((1 << 30) + 1), "too much"),
        ]
        read_only = memfd(4096)
        cases.append((os.open(f"/proc/self/fd/{read_only}", os.O_RDONLY), "writable"))
        for fd, reason in cases:
            answer = raw.register("r", fd)
            assert answer and reason in answer["error"], (reason, answer)
        for name in ("", "x" * 129, "\0"):
            assert "characters" in (raw.register(name, read_only) or {})["error"]
        assert raw.register("r", read_only) == {"ok": True}
        assert "already" in (raw.register("r", read_only) or {})["error"]
        raw.sock.close()
        for nonsense in (
            b"",
            b"{}",
            b"[]",
            b'{"op":"register","name":7}',
            b'{"op":"x","name":"x"}',
            b"[" * 9999,
        ):
            raw = Raw(node)
            if nonsense:
                assert raw.ask(nonsense) is None
            raw.sock.close()
        for fd in [fd for fd, _ in cases] + [read_only]:
            os.close(fd)
        until(lambda: node.regions() == [])
        until(lambda: len(list(Path("/proc/self/fd").iterdir())) <= before + 1)  # the pipe's other end

    scenario(tmp_path, client)


def test_the_memory_of_a_killed_client_is_freed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from agent.serving.client import Client\n"
        "client = Client(sys.argv[1]); x = client.shared((1024, 1024)); x[:] = 1\n"
        "print(flush=True); time.sleep(60)"
    )

    def client(node: SharedNode) -> None:
        command = [sys.executable, "-c", code, str(node.root / "run/http.sock")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            assert [found["byte_size"] for found in node.regions()] == [4 << 20]
            assert kept(node.pid("double"), process.pid) and kept(os.getpid(), process.pid)
            process.kill()
        until(lambda: node.regions() == [])
        assert not kept(node.pid("double"), process.pid) and not kept(os.getpid(), process.pid)

    scenario(tmp_path, client)


def kept(pid: int, client: int) -> bool:
    """Whether a process has memory of a client, as a map or by a descriptor."""
    mine = f"memfd:client-{client}-"
    links = Path(f"/proc/{pid}/fd").iterdir()
    maps = Path(f"/proc/{pid}/maps").read_text()
    return mine in maps or any(mine in str(link.readlink()) for link in links if link.is_symlink())


def test_a_name_may_get_other_memory_while_runs_go_on(tmp_path: Path) -> None:
    """Each run reads one piece of memory or the other, or finds none; none reads what is gone."""
    body = json.dumps(reading("r")).encode()

    def client(node: SharedNode) -> None:
        pid = node.pid("double")
        fds = [memfd(4096), memfd(4096)]
        for fd, value in zip(fds, (1.0, 2.0), strict=True):
            mmap.mmap(fd, 4096)[:32] = np.full(8, value, np.float32).tobytes()
        raw = Raw(node)
        seen = set()
        with connected(node) as connection:
            for turn in range(100):
                assert raw.register("r", fds[turn % 2]) == {"ok": True}
                connection.request("POST", "/v2/models/double/infer", body)
                assert raw.ask(b'{"op":"unregister","name":"r"}\n') == {"ok": True}
                answer = json.loads(connection.getresponse().read())
                if "error" in answer:
                    seen.add("gone")
                else:
                    assert set(answer["outputs"][0]["data"]) == {2.0 + 2.0 * (turn % 2)}
                    seen.add("there")
        assert "there" in seen
        raw.sock.close()
        for fd in fds:
            os.close(fd)
        assert node.pid("double") == pid

    scenario(tmp_path, client)
