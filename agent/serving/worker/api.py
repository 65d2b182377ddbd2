"""What a worker answers: metadata, readiness and inference of its one model."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from agent import __version__
from agent.errors import DeviceLost, OverlaidError, TensorError, one_line
from agent.histogram import Histogram
from agent.serving.http.connection import Connection
from agent.serving.http.messages import RETRY, Head, Reply, RequestError, json_reply
from agent.serving.http.sites import check_site
from agent.serving.processes.limits import memory_text, out_of_memory
from agent.serving.protocol.body import body_limit, body_memory, compressed, plain_body
from agent.serving.protocol.request import HEADER_LENGTH, Decoder, InferRequest
from agent.serving.protocol.response import encode
from agent.serving.protocol.targets import Target, check_method, parse_target, server_metadata
from agent.serving.recent import Failure, Report
from agent.serving.spec import WorkerSpec
from agent.serving.unwell import UNWELL
from agent.serving.worker import description
from agent.serving.worker.batches import Tensors
from agent.serving.worker.engine import Engine
from agent.serving.worker.job import Job, Outcome
from agent.serving.worker.regions import ClientRegions, WorkerRegions
from agent.serving.worker.stranded import MOST_BYTES, Stranded

OWN = ("server", "live", "ready")  # answered on the model's own socket for the server


@dataclass(slots=True)
class _Asked:
    """A request that was read, which took ``decoding_ns``. ``body``: None when it is too large to go elsewhere."""

    head: Head
    body: memoryview | None
    request: InferRequest
    regions: ClientRegions
    decoding_ns: int


class ModelApi:
    """Handler of a worker's connections.

    ``give_back(connection, elsewhere)`` returns one to the daemon: while draining, or because its next request is for
    someone else; ``pass_on``: see ``Stranded``. ``unwell(error)`` hears of runs that failed for the device,
    ``starved()`` of requests that found no memory. ``latency`` (seconds from the complete request to its answer) and
    ``failures`` add up until they are taken.

    A request runs at once when runs are short and it is its turn, else it waits (``Engine``) and is answered later.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        engine: Engine,
        give_back: Callable[[Connection, bool], None],
        pass_on: Callable[[Connection, bytes], bool],
        forget: Callable[[Connection], None],
        unwell: Callable[[OverlaidError], None],
        starved: Callable[[], None],
        regions: WorkerRegions,
    ) -> None:
        self._spec = spec
        self._engine = engine
        self._give_back = give_back
        self._forget = forget
        self._unwell = unwell
        self._starved = starved
        self._regions = regions
        self._decoder = Decoder(engine.inputs, engine.outputs)
        self._limit = body_limit(engine.inputs, spec.max_body_bytes)
        self._jobs: dict[Connection, Job] = {}  # what each client waits for
        self._stranded = Stranded(pass_on)
        self._draining = False
        self.latency = Histogram()
        self.failures: Counter[Failure] = Counter()

    def drain(self, draining: bool) -> None:
        """Whether connections go back to the daemon from now on, with requests that nobody answers here."""
        self._draining = draining
        if draining:
            self._stranded.leave()
        else:
            self._stranded.leaving = False

    def on_head(self, connection: Connection, head: Head) -> Reply | memoryview | None:
        """Answer, ask for the body of an inference, or give the connection back."""
        if self._draining:
            self._give_back(connection, False)
            return None
        check_site(connection, head)
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
            try:
                return body_memory(head, self._limit)
            except RequestError:
                self.failures["request"] += 1
                raise
            except MemoryError as error:
                return self._failure(error, 0)
        return self._describe(target)

    def on_body(self, connection: Connection, head: Head, body: memoryview) -> Reply | None:
        """Run the model on a complete request, now or when it is its turn."""
        began_ns = time.monotonic_ns()
        engine, regions = self._engine, self._regions.of(connection)
        length = head.headers.get(HEADER_LENGTH.lower())
        try:
            request = self._decoder.decode(plain_body(head, body, self._limit), length, regions)
        except RequestError:
            self.failures["request"] += 1
            raise
        except MemoryError as error:
            return self._failure(error, time.monotonic_ns() - began_ns)
        kept = body if len(body) <= MOST_BYTES else None
        asked = _Asked(head, kept, request, regions, time.monotonic_ns() - began_ns)
        try:
            in_time = request.timeout_s is None or request.timeout_s >= engine.run_s
            if engine.inline and in_time and engine.brief(request.batch):
                run = engine.run_now(request.tensors, request.batch)
                infer_ns = int(run.wall_s * 1e9)
                reply, encoding_ns = self._answer(asked, run.outputs, 0, infer_ns)
                engine.statistics.executed(request.batch, asked.decoding_ns, infer_ns, encoding_ns)
                return reply
            job = Job(
                request.tensors,
                request.batch,
                partial(self._finish, connection, asked),
                partial(_gone, connection),
                request.priority,
                request.timeout_s,
                asked.decoding_ns,
            )
            engine.submit(job)
        except Exception as error:
            return self._failed(connection, asked, error, time.monotonic_ns() - began_ns)
        self._jobs[connection] = job
        return None

    def on_lost(self, connection: Connection) -> None:
        """The connection is closed or back with the daemon: nobody waits for its answer."""
        self._stranded.forget(connection)
        job = self._jobs.pop(connection, None)
        if job is not None:
            self._engine.cancel(job)
        self._forget(connection)

    def take_report(self) -> Report:
        """What happened since the last call."""
        report = Report(self.latency, self.failures, self._engine.waiting, self._engine.take_runs())
        self.latency, self.failures = Histogram(), Counter()
        return report

    def metadata(self) -> dict[str, Any]:
        """The protocol's model metadata."""
        return description.metadata(self._spec, self._engine.inputs, self._engine.outputs)

    def config(self) -> dict[str, Any]:
        """Triton's model configuration."""
        return description.config(self._spec, self._engine.inputs, self._engine.outputs)

    def statistics(self) -> dict[str, Any]:
        """An element of Triton's ``model_stats``."""
        return self._engine.statistics.entry(self._spec.model, self._spec.version)

    def _finish(
        self, connection: Connection, asked: _Asked, outcome: Outcome, queue_ns: int, infer_ns: int
    ) -> None:
        del self._jobs[connection]
        after_ns = queue_ns + asked.decoding_ns + infer_ns
        if isinstance(
            outcome, Exception
        ):  # not raised: its traceback would keep alive what the request brought
            reply = self._failed(connection, asked, outcome, after_ns)
        else:
            try:
                reply, _ = self._answer(asked, outcome, queue_ns, infer_ns)
            except Exception as error:
                reply = self._failure(error, after_ns)
        if reply is not None:
            connection.reply(reply)

    def _answer(self, asked: _Asked, outputs: Tensors, queue_ns: int, infer_ns: int) -> tuple[Reply, int]:
        """The reply, and the nanoseconds that writing it took."""
        began_ns = time.monotonic_ns()
        request, input_ns = asked.request, asked.decoding_ns
        reply = encode(self._spec.model, self._spec.version, request, outputs, asked.regions)
        reply = compressed(asked.head, reply)
        encoding_ns = time.monotonic_ns() - began_ns
        self.latency.add((queue_ns + input_ns + infer_ns + encoding_ns) / 1e9)
        self._engine.statistics.succeeded(request.batch, queue_ns, input_ns, infer_ns, encoding_ns)
        self._stranded.well()
        return reply, encoding_ns

    def _failed(self, connection: Connection, asked: _Asked, error: Exception, after_ns: int) -> Reply | None:
        """The reply to a request that could not be run; None when it comes later, perhaps from elsewhere."""
        if isinstance(error, DeviceLost):

            def refuse() -> None:
                connection.reply(self._failure(error, after_ns))

            if self._stranded.keep(connection, asked.body, refuse):
                self._unwell(error)
                return None
        return self._failure(error, after_ns)

    def _failure(self, error: Exception, after_ns: int) -> Reply:
        self._engine.statistics.failed(after_ns)
        self.failures[_kind(error)] += 1
        if isinstance(error, RequestError):  # turned away, too late, or shared memory that cannot be used
            return error.reply()
        if isinstance(error, TensorError):
            return RequestError(400, one_line(error)).reply()
        if isinstance(error, UNWELL):  # the daemon looks for another device: the next try may succeed
            self._unwell(error)
            return RequestError(503, one_line(error), RETRY).reply()
        if out_of_memory(error):
            self._starved()
            return RequestError(500, memory_text(error, self._spec.memory_mb)).reply()
        text = (
            one_line(error)
            if isinstance(error, OverlaidError)
            else f"{type(error).__name__}: {one_line(error)}"
        )
        return RequestError(500, text).reply()

    def _check_target(self, target: Target) -> None:
        if target.model != self._spec.model and (target.model is not None or target.action not in OWN):
            raise RequestError(404, f"this socket serves only {self._spec.model!r}; ask the front door")
        if target.version not in (None, self._spec.version):
            raise RequestError(404, f"{self._spec.model!r} is served in version {self._spec.version!r} only")

    def _describe(self, target: Target) -> Reply:
        if target.model is None:
            if target.action == "server":
                return json_reply(server_metadata(__version__))
            return json_reply({"live": True} if target.action == "live" else {"ready": True})
        if target.action == "ready":
            return json_reply({"name": self._spec.model, "ready": True})
        if target.action == "config":
            return json_reply(self.config())
        if target.action == "stats":
            return json_reply({"model_stats": [self.statistics()]})
        return json_reply(self.metadata())


def _kind(error: Exception) -> Failure:
    if isinstance(error, RequestError):
        return {503: "overload", 504: "deadline"}.get(error.status, "request")  # type: ignore[return-value]
    if isinstance(error, TensorError):
        return "request"
    return "device" if isinstance(error, UNWELL) else "run"


def _gone(connection: Connection) -> bool:
    """True, and the connection is closed, when the client has hung up."""
    if connection.peer.hung_up:
        connection.abort()
        return True
    return False
