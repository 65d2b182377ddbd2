"""One binding at work: takes messages, runs them one after another through the model, publishes the answers."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from agent.app.bindings.client import ModelClient, Reply
from agent.app.bindings.payloads import (
    Request,
    json_request,
    parse_metadata,
    raw_answer,
    raw_request,
)
from agent.app.bindings.rate import RateLimit
from agent.bindings import outputs
from agent.errors import InferenceError, LinkError, OverlaidError, TensorError, WorkerCrashed, one_line
from agent.histogram import Histogram
from agent.link.client import Message
from agent.serving.recent import Recent
from agent.types import Binding, BindingStatus, TensorSpec

log = logging.getLogger("bindings")

MAX_WAITING = 16  # messages
MAX_WAITING_BYTES = 1 << 20  # of them together
STALE_S = 10.0  # what waited for longer is not what a subscriber wants to know now
METADATA_S = 1.0  # a message that does not fit makes it be read anew, unless it is younger than this
MAX_TOPICS = 1024  # whose last message is remembered
ERROR_EVERY_S = 1.0  # on the error topic
EVENT_EVERY_S = 60.0  # in telemetry
MAX_RETRY_S = 5.0

Publish = Callable[[str, bytes, int], "asyncio.Future[None]"]


@dataclass(slots=True)
class _Waiting:
    topic: str
    payload: bytes
    since: float


class Lane:
    """``publish(topic, payload, qos)``; ``tell(text)`` hears of failures, not more often than every minute.

    One message is under way at a time, so that answers keep the order of the messages. Of those that wait the newest
    win: the oldest are dropped.
    """

    def __init__(
        self,
        binding: Binding,
        client: ModelClient,
        publish: Publish,
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.binding = binding
        self._client, self._publish, self._tell, self._clock = client, publish, tell, clock
        self._rate = RateLimit(binding.max_rate_hz)
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._arrived = asyncio.Event()
        self._last: OrderedDict[int, int] = OrderedDict()  # hash of a topic → of its last payload
        self._inputs: tuple[TensorSpec, ...] | None = None
        self._inputs_read = float("-inf")
        self._received = self._answered = self._over_rate = self._dropped = self._errors = 0
        self._recent = Recent()
        self._why = ""
        self._error_due = self._event_due = float("-inf")

    def status(self) -> BindingStatus:
        """RUNNING, with what went wrong last."""
        recent = self._recent.histogram(self._clock())
        return BindingStatus(
            self.binding,
            "RUNNING",
            self._why,
            self._received,
            self._answered,
            self._over_rate,
            self._dropped,
            self._errors,
            recent.percentile_ms(0.50),
            recent.percentile_ms(0.99),
        )

    def offer(self, message: Message) -> None:
        """Take a message, if it is within the rate; never waits."""
        if self._known(message):
            return
        now = self._clock()
        self._received += 1
        if not self._rate.allows(now):
            self._over_rate += 1
            return
        self._waiting.append(_Waiting(message.topic, message.payload, now))
        self._waiting_bytes += len(message.payload)
        while len(self._waiting) > MAX_WAITING or (
            self._waiting_bytes > MAX_WAITING_BYTES and len(self._waiting) > 1
        ):
            self._take()
            self._dropped += 1
        self._arrived.set()

    def _known(self, message: Message) -> bool:
        """The broker sends a retained message again with each subscription; once it was run it is old."""
        topic, fingerprint = hash(message.topic), hash(message.payload)
        known = message.retain and self._last.get(topic) == fingerprint
        self._last[topic] = fingerprint
        self._last.move_to_end(topic)
        if len(self._last) > MAX_TOPICS:
            self._last.popitem(last=False)
        return known

    def _take(self) -> _Waiting:
        taken = self._waiting.popleft()
        self._waiting_bytes -= len(taken.payload)
        return taken

    async def run(self) -> None:
        """Work off what is offered, until cancelled."""
        try:
            while True:
                self._arrived.clear()
                while self._waiting:
                    await self._handle(self._take())
                await self._arrived.wait()
        finally:
            self._client.close()

    async def _handle(self, message: _Waiting) -> None:
        if self._clock() - message.since > STALE_S:
            self._dropped += 1
            return
        try:
            answer = await self._answer(message.payload)
        except OverlaidError as error:
            self._failed(message, f"{error.name}: {one_line(error)}")
            return
        except Exception as error:  # a bug must cost a message, not the binding
            log.exception("binding %s", self.binding, extra={"model": self.binding.model})
            self._failed(message, f"internal error: {type(error).__name__}: {one_line(error)}")
            return
        try:
            await self._publish(self.binding.output_topic, answer, self.binding.qos)
        except LinkError as error:
            self._dropped += 1
            self._why = one_line(error)
            return
        now = self._clock()
        took = Histogram()
        took.add(now - message.since)
        self._recent.add(now, took, 0)
        self._answered += 1

    async def _answer(self, payload: bytes) -> bytes:
        """The payload of the answer; a message is sent to the worker twice at most, because it may be what ends it."""
        reply = await self._first_try(payload) or await self._infer(payload)
        if reply.status != 200:
            raise InferenceError(f"HTTP {reply.status}: {_error_text(reply)}")
        return raw_answer(reply.body, reply.headers) if self.binding.format == "raw" else reply.body

    async def _first_try(self, payload: bytes) -> Reply | None:
        """None when another try may go better."""
        try:
            reply = await self._infer(payload)
        except TensorError:
            if await self._changed():
                return None
            raise
        except WorkerCrashed:
            return None
        if reply.status == 503:
            await asyncio.sleep(_retry_s(reply))
            return None
        if reply.status == 400 and await self._changed():
            return None
        return reply

    async def _infer(self, payload: bytes) -> Reply:
        inputs = self._inputs
        if inputs is None:
            inputs = await self._read_inputs()
        build: Callable[..., Request] = raw_request if self.binding.format == "raw" else json_request
        request = build(payload, inputs)
        path = f"/v2/models/{self.binding.model}/infer"
        return await self._client.request("POST", path, request.body, request.headers)

    async def _changed(self) -> bool:
        """Read the metadata anew; True when the model's inputs are not what they were: it was replaced."""
        if self._clock() - self._inputs_read < METADATA_S:
            return False
        before = self._inputs
        return await self._read_inputs() != before

    async def _read_inputs(self) -> tuple[TensorSpec, ...]:
        reply = await self._client.request("GET", f"/v2/models/{self.binding.model}")
        if reply.status != 200:
            raise InferenceError(f"no metadata, HTTP {reply.status}: {_error_text(reply)}")
        self._inputs, self._inputs_read = parse_metadata(reply.body), self._clock()
        return self._inputs

    def _failed(self, message: _Waiting, why: str) -> None:
        now = self._clock()
        self._errors += 1
        self._why = why
        if now >= self._error_due:
            self._error_due = now + ERROR_EVERY_S
            payload = json.dumps({"error": why, "topic": message.topic}).encode()
            self._publish(outputs(self.binding)[1], payload, 0)
        if now >= self._event_due:
            self._event_due = now + EVENT_EVERY_S
            self._tell(f"{self.binding}: {why}")


def _retry_s(reply: Reply) -> float:
    text = reply.headers.get("retry-after", "1")
    return min(float(text), MAX_RETRY_S) if text.isascii() and text.isdigit() else 1.0


def _error_text(reply: Reply) -> str:
    try:
        return str(json.loads(reply.body)["error"])[:300]
    except (ValueError, KeyError, TypeError):
        return repr(reply.body[:100])
