"""One binding against a played worker: what is answered, dropped, tried again, counted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

from agent.app.bindings import lane as lanes
from agent.app.bindings.client import ModelClient
from agent.app.bindings.lane import MAX_WAITING, Lane
from agent.errors import LinkError
from agent.link.client import Message
from agent.types import Binding
from tests.unit.app.bindings.worker import PlayedWorker, error, played, until

BINDING = Binding("in", "m", "out", "raw")


def message(payload: bytes, retain: bool = False, topic: str = "in") -> Message:
    return Message(topic, payload, retain, lambda: None)


class Play:
    """A lane with what it published and told; ``now`` is its clock."""

    def __init__(self, worker: PlayedWorker, path: Path, binding: Binding = BINDING) -> None:
        self.worker, self.now = worker, 100.0
        self.published: list[tuple[str, bytes, int]] = []
        self.told: list[str] = []
        self.offline = False
        client = ModelClient(lambda: path, 1000, timeout_s=5.0)
        self.lane = Lane(binding, client, self._publish, self.told.append, lambda: self.now)

    def _publish(self, topic: str, payload: bytes, qos: int) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.offline:
            future.set_exception(LinkError("not connected"))
            future.exception()
        else:
            self.published.append((topic, payload, qos))
            future.set_result(None)
        return future

    @property
    def answers(self) -> list[bytes]:
        return [payload for topic, payload, _ in self.published if topic == "out"]

    @property
    def failures(self) -> list[str]:
        return [json.loads(payload)["error"] for topic, payload, _ in self.published if topic == "out/error"]

    async def settled(self, count: int) -> None:
        """Until so many messages have come to their end."""

        def done() -> bool:
            status = self.lane.status()
            return status.answered + status.over_rate + status.dropped + status.errors >= count

        await until(done)


def play(tmp_path: Path, act: Callable[[Play], Awaitable[None]], binding: Binding = BINDING) -> None:
    async def run() -> None:
        async with played(tmp_path / "s") as worker:
            it = Play(worker, tmp_path / "s", binding)
            task = asyncio.create_task(it.lane.run())
            try:
                await act(it)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def test_messages_are_answered_in_order_on_one_connection(tmp_path: Path) -> None:
    async def act(it: Play) -> None:
        for number in range(5):
            it.lane.offer(message(b"abc%d" % number))
        await it.settled(5)
        assert it.answers == [b"abc%d" % number for number in range(5)]
        assert it.worker.connections == 1
        status = it.lane.status()
        assert (status.state, status.received, status.answered, status.why) == ("RUNNING", 5, 5, "")
        assert status.p50_ms is not None

    play(tmp_path, act)


def test_the_newest_win_when_the_model_is_slow(tmp_path: Path) -> None:
    async def act(it: Play) -> None:
        it.worker.hold = asyncio.Event()
        it.lane.offer(message(b"0000"))
        await until(lambda: it.worker.inferences)
        for number in range(1, 31):
            it.lane.offer(message(b"%04d" % number))
        it.worker.hold.set()
        await it.settled(31)
        kept = range(31 - MAX_WAITING, 31)
        assert it.answers == [b"0000", *(b"%04d" % number for number in kept)]
        assert it.lane.status().dropped == 30 - MAX_WAITING

    play(tmp_path, act)


def test_large_messages_wait_in_bounded_memory(tmp_path: Path) -> None:
    async def act(it: Play) -> None:
        it.worker.hold = asyncio.Event()
        it.lane.offer(message(b"0000"))
        await until(lambda: it.worker.inferences)
        for number in range(8):
            it.lane.offer(message(bytes([number]) * 400_000))
        assert it.lane.status().dropped == 6
        it.worker.hold.set()
        await it.settled(9)

    play(tmp_path, act)


def test_what_is_over_the_rate_is_counted(tmp_path: Path) -> None:
    async def act(it: Play) -> None:
        for _ in range(10):
            it.lane.offer(message(b"abcd"))
            it.now += 0.01
        await it.settled(10)
        status = it.lane.status()
        assert (status.received, status.answered, status.over_rate) == (10, 2, 8)

    play(tmp_path, act, Binding("in", "m", "out", "raw", 10.0))


def test_what_waited_too_long_is_dropped(tmp_path: Path) -> None:
    async def act(it: Play) -> None:
        it.worker.hold = asyncio.Event()
        it.lane.offer(message(b"0000"))
        await until(lambda: it.worker.inferences)
        it.lane.offer(message(b"0001"))
        it.now += lanes.STALE_S + 1
        it.lane.offer(message(b"0002"))
        it.worker.hold.set()
        await it.settled(3)
        assert it.answers == [b"0000", b"0002"] and it.lane.status().dropped == 1

    play(tmp_path, act)


def test_a_retained_message_is_run_once(tmp_path: Path) -> None:
    async def act(it: Play) -> None:
        it.lane.offer(message(b"old0", retain=True))
        it.lane.offer(message(b"old0", retain=True))  # the next connection brings it again
        it.lane.offer(message(b"new0"))
        it.lane.offer(message(b"new0", retain=True))
        it.lane.offer(message(b"new1", retain=True))  # changed while the connection was away
        it.lane.offer(message(b"new1"))  # a sensor may say the same twice
        await it.settled(4)
        assert it.answers == [b"old0", b"new0", b"new1", b"new1"]

    play(tmp_path, act)


def test_retained_messages_of_many_topics_are_known_again(tmp_path: Path) -> None:
    async def act(it: Play) -> None:
        for _ in range(2):  # two connections
            for number in range(1000):
                it.lane.offer(message(b"last", retain=True, topic=f"in/{number}"))
        assert it.lane.status().received == 1000

    play(tmp_path, act)


def test_what_does_not_fit_is_an_error_and_the_next_message_is_answered(tmp_path: Path) -> None:
    async def act(it: Play) -> None:
        it.lane.offer(message(b"abc", topic="in/7"))
        it.lane.offer(message(b"abcd"))
        await it.settled(2)
        assert it.answers == [b"abcd"] and it.worker.inferences[0].endswith(b"abcd")
        topic, payload, qos = it.published[0]
        told = json.loads(payload)
        assert (topic, qos, told["topic"]) == ("out/error", 0, "in/7")
        assert "TensorError: 3 bytes; one sample has 4" in told["error"]
        assert it.lane.status().errors == 1 and "TensorError" in it.lane.status().why
        assert it.told and "in -> m -> out" in it.told[0]

    play(tmp_path, act)


def test_errors_are_not_shouted(tmp_path: Path) -> None:
    async def act(it: Play) -> None:
        for number in range(1, 31):
            it.lane.offer(message(b""))
            await it.settled(number)
            it.now += 0.1
        assert it.lane.status().errors == 30
        assert 2 <= len(it.failures) <= 4 and len(it.told) == 1

    play(tmp_path, act)


def test_a_model_with_other_tensors_is_asked_again(tmp_path: Path) -> None:
    async def act(it: Play) -> None:
        it.lane.offer(message(b"abcd"))
        await it.settled(1)
        it.worker.shape = [1, 6]
        it.now += 10
        it.lane.offer(message(b"abcdef"))
        await it.settled(2)
        assert it.answers == [b"abcd", b"abcdef"]
        it.worker.shape = [2, 3]  # the same size: only the worker can tell
        it.worker.answers = [error(400, "shape [1, 6] does not fit [2, 3]")]
        it.now += 10
        it.lane.offer(message(b"ABCDEF"))
        await it.settled(3)
        assert it.answers[2] == b"ABCDEF" and b"[2,3]" in it.worker.inferences[-1]

    play(tmp_path, act)


def test_metadata_is_not_read_for_every_wrong_message(tmp_path: Path) -> None:
    async def act(it: Play) -> None:
        for number in range(1, 11):
            it.lane.offer(message(b"x"))
            await it.settled(number)
        assert [target for target, _ in it.worker.requests] == ["GET /v2/models/m"]

    play(tmp_path, act)


def test_a_busy_model_is_asked_once_more(tmp_path: Path) -> None:
    async def act(it: Play) -> None:
        later = {"Retry-After": "0"}
        it.worker.answers = [error(503, "restarting", **later)]
        it.lane.offer(message(b"abcd"))
        await it.settled(1)
        assert it.answers == [b"abcd"]
        it.worker.answers = [error(503, "restarting", **later)] * 2
        it.lane.offer(message(b"efgh"))
        await it.settled(2)
        assert "HTTP 503: restarting" in it.failures[0] and len(it.worker.inferences) == 4

    play(tmp_path, act)


def test_a_message_that_ends_the_worker_is_given_to_it_twice_at_most(tmp_path: Path) -> None:
    async def act(it: Play) -> None:
        it.worker.answers = [None, None]
        it.lane.offer(message(b"evil"))
        it.lane.offer(message(b"good"))
        await it.settled(2)
        assert it.answers == [b"good"] and len(it.worker.inferences) == 3
        assert "WorkerCrashed" in it.failures[0]

    play(tmp_path, act)


def test_a_connection_that_the_worker_closed_costs_nothing(tmp_path: Path) -> None:
    async def act(it: Play) -> None:
        it.lane.offer(message(b"abcd"))
        await it.settled(1)
        it.worker.cut()
        await asyncio.sleep(0.02)
        it.lane.offer(message(b"efgh"))
        await it.settled(2)
        assert it.answers == [b"abcd", b"efgh"] and it.lane.status().errors == 0

    play(tmp_path, act)


def test_a_failed_run_and_an_answer_nobody_takes_are_counted_apart(tmp_path: Path) -> None:
    async def act(it: Play) -> None:
        it.worker.answers = [error(500, "the runtime failed")]
        it.lane.offer(message(b"abcd"))
        await it.settled(1)
        it.offline = True
        it.lane.offer(message(b"efgh"))
        await it.settled(2)
        status = it.lane.status()
        assert (status.errors, status.dropped, status.answered) == (1, 1, 0)
        assert status.why == "not connected"

    play(tmp_path, act)


def test_json_answers_are_the_workers(tmp_path: Path) -> None:
    async def act(it: Play) -> None:
        it.worker.answers = [(200, {}, b'{"outputs":[]}')]
        it.lane.offer(message(b"[1,2,3,4]"))
        await it.settled(1)
        assert it.published == [("out", b'{"outputs":[]}', 1)]
        assert json.loads(it.worker.inferences[0])["inputs"][0]["data"] == [1, 2, 3, 4]

    play(tmp_path, act, Binding("in", "m", "out", "json", qos=1))
