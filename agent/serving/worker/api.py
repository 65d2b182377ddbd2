"""What a worker answers: metadata, readiness and inference of its one model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from agent import __version__
from agent.errors import OverlaidError, TensorError, one_line
from agent.hal import Run
from agent.histogram import Histogram
from agent.serving.http.connection import Connection
from agent.serving.http.messages import RETRY, Head, Reply, RequestError, json_reply
from agent.serving.protocol.request import HEADER_LENGTH, InferRequest, decode
from agent.serving.protocol.response import encode
from agent.serving.protocol.targets import Target, check_method, parse_target, server_metadata
from agent.serving.spec import WorkerSpec
from agent.serving.unwell import UNWELL
from agent.serving.worker.engine import Engine
from agent.serving.worker.regions import WorkerRegions
from agent.types import TensorSpec

CONTENT_TYPES = ("", "application/json", "application/octet-stream")


class ModelApi:
    """Handler of a worker's connections.

    ``give_back(connection, elsewhere)`` returns one to the daemon: while ``draining``, or because its next request is
    for someone else. ``unwell(error)`` hears of runs that failed for the device. ``latency`` (seconds from the complete
    request to its answer) and ``errors`` (failed runs) add up until they are taken.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        engine: Engine,
        give_back: Callable[[Connection, bool], None],
        forget: Callable[[Connection], None],
        unwell: Callable[[OverlaidError], None],
        regions: WorkerRegions,
    ) -> None:
        self._spec = spec
        self._engine = engine
        self._give_back = give_back
        self._forget = forget
        self._unwell = unwell
        self._regions = regions
        self._tasks: set[asyncio.Task[None]] = set()
        self.draining = False
        self.latency = Histogram()
        self.errors = 0

    def on_head(self, connection: Connection, head: Head) -> Reply | memoryview | None:
        """Answer, ask for the body of an inference, or give the connection back."""
        if self.draining:
            self._give_back(connection, False)
            return None
        try:
            target = parse_target(head.path)
        except RequestError:
            if connection.door:
                self._give_back(connection, True)
                return None
            raise
        if connection.door and target.model != self._spec.model:
            self._give_back(connection, True)
            return None
        self._check_target(target)
        answer = check_method(head, target)
        if answer is not None:
            return answer
        if target.action == "infer":
            return self._body(head)
        return self._describe(target)

    def on_body(self, connection: Connection, head: Head, body: memoryview) -> Reply | None:
        """Run the model on a complete request."""
        try:
            return self._infer(connection, head, body)
        except RequestError:
            raise
        except Exception as error:
            return self._failure(error)

    def on_lost(self, connection: Connection) -> None:
        """The connection is closed or back with the daemon."""
        self._forget(connection)

    def take_stats(self) -> tuple[Histogram, int]:
        """Latencies and errors since the last call."""
        taken = self.latency, self.errors
        self.latency, self.errors = Histogram(), 0
        return taken

    def _infer(self, connection: Connection, head: Head, body: memoryview) -> Reply | None:
        started = time.monotonic()
        session = self._engine.session
        length = head.headers.get(HEADER_LENGTH.lower())
        request = decode(body, length, session.inputs, session.outputs, self._regions.of(connection))
        if self._engine.inline:
            return self._answer(connection, request, self._engine.run_now(request.tensors), started)
        task = asyncio.get_running_loop().create_task(self._run(connection, request, started))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return None

    async def _run(self, connection: Connection, request: InferRequest, started: float) -> None:
        try:
            reply = self._answer(connection, request, await self._engine.run(request.tensors), started)
        except Exception as error:
            reply = self._failure(error)
        connection.reply(reply)

    def _answer(self, connection: Connection, request: InferRequest, run: Run, started: float) -> Reply:
        regions = self._regions.of(connection)
        reply = encode(self._spec.model, self._spec.version, request, run.outputs, regions)
        self.latency.add(time.monotonic() - started)
        return reply

    def _failure(self, error: Exception) -> Reply:
        if isinstance(error, RequestError):  # shared memory for an output that cannot be used
            return error.reply()
        if isinstance(error, TensorError):
            return RequestError(400, one_line(error)).reply()
        self.errors += 1
        if isinstance(error, UNWELL):  # the daemon looks for another device: the next try may succeed
            self._unwell(error)
            return RequestError(503, one_line(error), RETRY).reply()
        text = (
            one_line(error)
            if isinstance(error, OverlaidError)
            else f"{type(error).__name__}: {one_line(error)}"
        )
        return RequestError(500, text).reply()

    def _check_target(self, target: Target) -> None:
        if target.model not in (None, self._spec.model):
            raise RequestError(404, f"this socket serves only {self._spec.model!r}")
        if target.version not in (None, self._spec.version):
            raise RequestError(404, f"{self._spec.model!r} is served in version {self._spec.version!r} only")

    def _body(self, head: Head) -> memoryview:
        """Memory for the body; RequestError 411, 413 or 415 before a byte of it is read."""
        kind = head.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in CONTENT_TYPES:
            raise RequestError(415, f"Content-Type {kind[:64]!r} is not supported; send application/json")
        if head.headers.get("content-encoding", "identity").lower() != "identity":
            raise RequestError(415, "compressed bodies are not supported; send the body as it is")
        if head.content_length is None:
            raise RequestError(411, "the request has no Content-Length")
        if head.content_length > self._spec.max_body_bytes:
            raise RequestError(
                413, f"the body has {head.content_length} bytes; this model takes {self._spec.max_body_bytes}"
            )
        return np.empty(head.content_length, np.uint8).data

    def _describe(self, target: Target) -> Reply:
        if target.model is None:
            if target.action == "server":
                return json_reply(server_metadata(__version__))
            return json_reply({"live": True} if target.action == "live" else {"ready": True})
        if target.action == "ready":
            return json_reply({"name": self._spec.model, "ready": True})
        return json_reply(
            {
                "name": self._spec.model,
                "versions": [self._spec.version],
                "platform": f"{self._spec.candidate.backend}_{self._spec.file.format}",
                "inputs": [_tensor(spec) for spec in self._engine.session.inputs],
                "outputs": [_tensor(spec) for spec in self._engine.session.outputs],
            }
        )


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.dtype, "shape": list(spec.shape)}
