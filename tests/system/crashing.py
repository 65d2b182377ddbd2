"""What the tests of crashes share: models that take or give as much as a request says, a node, a client by hand."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from agent.hal import ModelFile
from agent.serving.door.front_door import FrontDoor
from agent.serving.events import PoolEvent
from agent.serving.pool import Pool
from agent.serving.processes.vitals import Patience, Vitals
from agent.serving.spec import Golden, WorkerSpec
from agent.types import TensorSpec
from tests.system.serving_models import bare_node, make_spec

HURRIED = Patience(look_s=0.1, doubt_s=1.6, silent_s=3.0, run_s=2.5)  # workers beat every second


def make_spin(root: Path) -> WorkerSpec:
    """y = n after n rounds of nothing: a request says how long its run takes (some million rounds a second)."""
    body = helper.make_graph(
        [
            helper.make_node("Add", ["v_in", "one"], ["v_out"]),
            helper.make_node("Identity", ["go_in"], ["go_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_in", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_out", TensorProto.FLOAT, [1]),
        ],
    )
    nodes = [
        helper.make_node("Squeeze", ["n"], ["rounds"]),
        helper.make_node("Loop", ["rounds", "go", "zero"], ["y"], body=body),
    ]
    constants = [
        helper.make_tensor("go", TensorProto.BOOL, [], [True]),
        helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0]),
        helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]),
    ]
    return _spec(root, "spin", nodes, constants, TensorSpec("y", "FP32", (1,)), np.ones(1, np.float32))


def make_wide(root: Path) -> WorkerSpec:
    """n zeros: a request says how large its answer is."""
    value = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.0])
    nodes = [helper.make_node("ConstantOfShape", ["n"], ["y"], value=value)]
    return _spec(root, "wide", nodes, [], TensorSpec("y", "FP32", (-1,)), np.zeros(1, np.float32))


def _spec(
    root: Path, name: str, nodes: list[NodeProto], constants: list[TensorProto], out: TensorSpec, answer: Any
) -> WorkerSpec:
    """A model of one INT64 called n, with 1 as its golden input."""
    n = TensorSpec("n", "INT64", (1,))
    shape = ["m" if size < 0 else size for size in out.shape]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("n", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        constants,
    )
    model, golden_in, golden_out = (root / f"{name}{end}" for end in (".onnx", ".n", ".y"))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), model)
    golden_in.write_bytes(np.ones(1, np.int64).tobytes())
    golden_out.write_bytes(answer.tobytes())
    return replace(
        make_spec(root, "unused", 1.0),
        model=name,
        file=ModelFile(model, "onnx", (n,), (out,)),
        golden=Golden(1, {"n": golden_in}, {"y": golden_out}, 0.0, 0.0),
    )


class Node:
    """A pool and a front door. ``triple`` is there for others who must not notice anything."""

    def __init__(self, root: Path, patience: Patience = Patience()) -> None:  # noqa: B008
        self.root = root
        self.events: list[PoolEvent] = []
        self._clients: list[Client] = []
        self.pool = Pool(root / "run", self.events.append, patience=patience)
        self.door = FrontDoor(self.pool, "127.0.0.1:0", root / "run/http.sock", bare_node)

    async def serve(self, *specs: WorkerSpec) -> None:
        await self.door.start()
        for spec in specs:
            worker = await self.pool.start(spec)
            await worker.check()
            await self.pool.route(spec.model, worker)

    async def close(self) -> None:
        self.forget_clients()
        await self.door.stop()
        await self.pool.close()

    def vitals(self, model: str) -> Vitals:
        """What the model's worker shows of itself."""
        worker = self.pool.worker(model)
        assert worker is not None and worker.vitals is not None
        return worker.vitals

    def forget_clients(self, keep: Sequence[Client] = ()) -> None:
        """Close the connections of all others."""
        for client in self._clients:
            if client not in keep:
                client.close()
        self._clients = list(keep)

    def pid(self, model: str) -> int:
        status = self.pool.status(model)
        assert status is not None and status.pid is not None
        return status.pid

    def told(self, kind: str) -> list[str]:
        return [event.text for event in self.events if event.kind == kind]

    async def until(self, condition: Callable[[], bool], seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, [event for event in self.events if event.kind != "stats"]
            await asyncio.sleep(0.01)

    async def restarted(self, model: str, times: int = 1) -> None:
        """Until ``model`` was started again so often and serves."""

        def again() -> bool:
            status = self.pool.status(model)
            return status is not None and status.restarts >= times and status.ready

        await self.until(again)

    def client(self, model: str, door: bool = True) -> Client:
        """Through the front door, or the model's own socket."""
        assert self.door.address is not None
        client = Client(self.door.address if door else self.root / f"run/models/{model}.sock", model)
        self._clients.append(client)
        return client


class Client:
    """One connection, whose bytes the test sees."""

    def __init__(self, address: tuple[str, int] | Path, model: str) -> None:
        self.model = model
        family = socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET
        self.sock = socket.socket(family)
        self.sock.settimeout(30)
        self.sock.connect(str(address) if isinstance(address, Path) else address)

    def send(self, value: Any = 1, part: slice = slice(None), **parameters: Any) -> None:
        """A request, or part of it: ``value`` is n, or for x of the tiny models, four times that."""
        name, datatype, data = "x", "FP32", [value] * 4
        if self.model in ("spin", "wide"):
            name, datatype, data = "n", "INT64", [value]
        shape = [1, 4] if name == "x" else [1]
        tensor = {"name": name, "shape": shape, "datatype": datatype, "data": data}
        body = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
        head = f"POST /v2/models/{self.model}/infer HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
        self.sock.sendall((head.encode() + body)[part])

    def answer(self) -> tuple[int, http.client.HTTPMessage, Any]:
        """The next response; OSError or HTTPException when the connection ends instead."""
        response = http.client.HTTPResponse(self.sock, method="POST")
        response.begin()
        body = response.read()
        binary = response.headers["Content-Type"] == "application/octet-stream"
        return response.status, response.headers, body if binary else json.loads(body)

    def infer(self, value: Any = 1) -> int:
        """The status of a whole request."""
        self.send(value)
        return self.answer()[0]

    def closed(self) -> bool:
        """Wait for the server to close; nothing may come before."""
        return self.sock.recv(1) == b""

    def close(self) -> None:
        self.sock.close()


def scenario(
    root: Path,
    models: list[WorkerSpec],
    steps: Callable[[Node], Awaitable[None]],
    patience: Patience = Patience(),  # noqa: B008
) -> None:
    """Play ``steps`` beside a client of ``triple`` who gets an answer to every request."""
    stop, served = False, 0

    def bystander(node: Node) -> None:
        nonlocal served
        assert node.door.address is not None
        client = Client(node.door.address, "triple")
        while not stop:
            assert client.infer() == 200
            served += 1
            time.sleep(0.002)
        client.close()

    async def run() -> None:
        nonlocal stop
        node = Node(root, patience)
        try:
            await node.serve(make_spec(root, "triple", 3.0), *models)
            other = asyncio.create_task(asyncio.to_thread(bystander, node))
            try:
                await steps(node)
            finally:
                stop = True
                await other
        finally:
            await node.close()
        assert served > 0

    asyncio.run(run())


def descriptors(pid: int | None = None) -> int:
    """How many a process has open."""
    return len(list(Path(f"/proc/{pid or os.getpid()}/fd").iterdir()))
