"""More requests than a worker can answer: who waits, who is turned away, and what each is told. Real workers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent.serving.pool import Pool
from agent.serving.processes.process import Worker
from agent.serving.spec import WorkerSpec
from agent.serving.worker.queue import MAX_WAITING
from tests.system.serving_models import make_spec
from tests.system.slow_model import make_slow_spec

LONG = 6000  # steps: seconds
QUICK = 60  # tens of milliseconds


@dataclass
class Served:
    """A model's socket and its worker."""

    path: Path
    worker: Worker

    async def ask(
        self, value: float, steps: int = QUICK, samples: int = 1, **parameters: int
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers and body of one request on a connection of its own."""
        reader, writer = await asyncio.open_unix_connection(self.path)
        with contextlib.closing(writer):
            writer.write(request(value, steps, samples, **parameters))
            return await answer(reader)

    async def begin(self, steps: int = LONG, value: float = 0.0) -> asyncio.Task[Any]:
        """A request whose run is under way when this returns."""
        task = asyncio.create_task(self.ask(value, steps))
        while not (self.worker.vitals and self.worker.vitals.running_since):
            assert not task.done()
            await asyncio.sleep(0.01)
        return task

    async def statistics(self) -> Any:
        return (await self.worker.describe())["statistics"]


def request(value: float, steps: int, samples: int = 1, **parameters: int) -> bytes:
    data = [value, value, value, steps] * samples
    tensor = {"name": "x", "shape": [samples, 4], "datatype": "FP32", "data": data}
    body = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
    return b"POST /v2/models/m/infer HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], Any]:
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)).decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in head[1:] if line)
    body = await reader.readexactly(int(headers["Content-Length"]))
    return int(head[0].split()[1]), headers, json.loads(body)


def told(reply: tuple[int, dict[str, str], Any]) -> float:
    """The first value of a good answer."""
    assert reply[0] == 200, reply
    return float(reply[2]["outputs"][0]["data"][0])


def scenario(root: Path, spec: WorkerSpec, steps: Callable[[Served], Awaitable[None]]) -> None:
    async def run() -> None:
        pool = Pool(root / "run", lambda _: None)
        try:
            worker = await pool.start(spec)
            await worker.check()
            await pool.route("m", worker)
            await steps(Served(root / "run/models/m.sock", worker))
        finally:
            await pool.close()

    asyncio.run(run())


def test_a_deadline_is_kept_while_a_long_run_goes_on(tmp_path: Path) -> None:
    async def steps(served: Served) -> None:
        long = await served.begin()
        status, headers, body = await served.ask(1.0, timeout=100_000)
        assert not long.done(), "answered only after the run"
        assert status == 504 and "deadline of 100 ms" in body["error"] and int(headers["Retry-After"]) >= 1
        assert told(await long) == 0.0
        entry = await served.statistics()
        assert (entry["inference_count"], entry["inference_stats"]["fail"]["count"]) == (1, 1)

    scenario(tmp_path, make_slow_spec(tmp_path, "m"), steps)


def test_the_run_itself_may_not_outlast_the_deadline_either(tmp_path: Path) -> None:
    async def steps(served: Served) -> None:
        status, _, body = await served.ask(1.0, LONG, timeout=200_000)
        assert status == 504 and "deadline of 200 ms" in body["error"]
        assert told(await served.ask(2.0)) == 4.0  # after the run that nobody waits for

    scenario(tmp_path, make_slow_spec(tmp_path, "m"), steps)


def test_who_cannot_be_answered_in_time_is_turned_away_on_arrival(tmp_path: Path) -> None:
    async def steps(served: Served) -> None:
        status, headers, body = await served.ask(1.0, timeout=1)
        assert status == 504 and "would take about" in body["error"] and "1 ms" not in headers["Retry-After"]
        assert (await served.statistics())["execution_count"] == 0

    for name, spec in (("slow", make_slow_spec(tmp_path, "m")), ("quick", make_spec(tmp_path, "m", 2.0))):
        (tmp_path / name).mkdir()
        scenario(tmp_path / name, spec, steps)


def test_the_queue_is_bounded_and_says_when_to_come_back(tmp_path: Path) -> None:
    async def steps(served: Served) -> None:
        long = await served.begin()
        patient = {"timeout": 3_600_000_000}
        asked = (served.ask(float(value), 0, **patient) for value in range(MAX_WAITING + 1))
        answers = await asyncio.gather(*asked)
        refused = [reply for reply in answers if reply[0] != 200]
        assert 1 <= len(refused) <= MAX_WAITING
        for status, headers, body in refused:
            assert status == 503 and f"{MAX_WAITING + 1 - len(refused)} requests wait" in body["error"]
            assert int(headers["Retry-After"]) >= 1
        values = [(2.0 * value, reply) for value, reply in enumerate(answers) if reply not in refused]
        assert all(told(reply) == value for value, reply in values)
        assert told(await long) == 0.0

    scenario(tmp_path, make_slow_spec(tmp_path, "m", golden_steps=LONG // 4), steps)


def test_the_most_urgent_is_answered_first(tmp_path: Path) -> None:
    async def steps(served: Served) -> None:
        await served.begin()
        order: list[str] = []

        async def ask(name: str, priority: int) -> None:
            told(await served.ask(1.0, priority=priority))
            order.append(name)

        tasks = []
        for name, priority in (("first", 0), ("second", 0), ("low", 7), ("high", 1), ("low too", 7)):
            tasks.append(asyncio.create_task(ask(name, priority)))
            await asyncio.sleep(0.05)
        await asyncio.gather(*tasks)
        assert order == ["high", "low", "low too", "first", "second"]

    scenario(tmp_path, make_slow_spec(tmp_path, "m"), steps)


def test_instances_run_at_the_same_time(tmp_path: Path) -> None:
    async def steps(served: Served) -> None:
        long = await served.begin()
        assert told(await served.ask(3.0)) == 6.0
        assert not long.done()
        assert told(await long) == 0.0
        assert (await served.worker.describe())["config"]["instance_group"][0]["count"] == 2

    scenario(tmp_path, replace(make_slow_spec(tmp_path, "m"), instances=2), steps)


def test_a_client_that_has_gone_is_not_run_for(tmp_path: Path) -> None:
    async def steps(served: Served) -> None:
        long = await served.begin()
        _, writer = await asyncio.open_unix_connection(served.path)
        writer.write(request(1.0, QUICK))
        await asyncio.sleep(0.1)
        writer.close()
        assert told(await served.ask(2.0)) == 4.0
        await long
        entry = await served.statistics()
        assert (entry["inference_count"], entry["execution_count"]) == (2, 2)

    scenario(tmp_path, make_slow_spec(tmp_path, "m"), steps)


def test_everybody_gets_their_own_answer_out_of_a_batch(tmp_path: Path) -> None:
    clients, rounds = 32, 6

    async def steps(served: Served) -> None:
        async def client(number: int) -> None:
            reader, writer = await asyncio.open_unix_connection(served.path)
            with contextlib.closing(writer):
                for turn in range(rounds):
                    value, samples = 100.0 * number + turn, 1 + (number + turn) % 3
                    writer.write(request(value, QUICK, samples))
                    status, _, body = await answer(reader)
                    assert status == 200, body
                    (output,) = body["outputs"]
                    assert output["shape"] == [samples, 4]
                    assert output["data"] == [2 * value, 2 * value, 2 * value, 2 * QUICK] * samples

        await asyncio.gather(*(client(number) for number in range(clients)))
        entry = await served.statistics()
        assert entry["inference_stats"]["success"]["count"] == clients * rounds
        assert entry["inference_count"] == sum(
            1 + (number + turn) % 3 for number in range(clients) for turn in range(rounds)
        )
        assert entry["execution_count"] < clients * rounds / 2
        assert max(size["batch_size"] for size in entry["batch_stats"]) == 8

    for name, pace in (("threads", QUICK), ("loop", 0)):
        (tmp_path / name).mkdir()
        spec = replace(make_slow_spec(tmp_path, "m", golden_steps=pace), max_batch=8)
        scenario(tmp_path / name, spec, steps)


def test_requests_sent_ahead_hold_up_neither_the_daemon_nor_each_other(tmp_path: Path) -> None:
    clients, each = 48, 100
    unanswered = clients * each

    async def steps(served: Served) -> None:
        async def client(number: int) -> None:
            nonlocal unanswered
            reader, writer = await asyncio.open_unix_connection(served.path)
            with contextlib.closing(writer):
                writer.write(request(float(number), 0) * each)
                for _ in range(each):
                    assert told(await answer(reader)) == 2.0 * number
                    unanswered -= 1

        tasks = [asyncio.create_task(client(number)) for number in range(clients)]
        heard = 0
        while unanswered:
            await served.statistics()
            heard += unanswered > 0
        await asyncio.gather(*tasks)
        assert heard >= 10

    scenario(tmp_path, make_spec(tmp_path, "m", 2.0), steps)


def test_runs_for_several_requests_are_measured_in_the_worker(tmp_path: Path) -> None:
    async def steps(served: Served) -> None:
        times = await served.worker.batch_times(8.0, 10.0)
        assert list(times) == [1, 2, 4, 8] and all(runs for runs in times.values())
        assert min(times[8]) < 4 * max(times[1])  # its loop runs once, however many samples there are

    scenario(tmp_path, make_slow_spec(tmp_path, "m", golden_steps=5), steps)
