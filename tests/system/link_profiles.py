"""A node behind a bad link, with weeks of messages waiting: a deployment, commands and a kill on the way; then every
message is accounted for by its number.

``python -m tests.system.link_profiles [--speed 1]``: every profile, by default in its own time, and a table.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agent.fleet.home import Home
from agent.fleet.operator import Operator
from agent.link.messages import DeploymentEnd, Result, TelemetryBatch, parse
from agent.link.outbox import Outbox
from agent.link.spool import Priority
from agent.link.topics import Target
from agent.types import State
from tests.system.brokers import Broker
from tests.system.digits import DIGITS
from tests.system.links import Recorded
from tests.system.shaping import OFFLINE, SATELLITE, THREE_G, Profile, Shaper, shaped
from tests.system.stage import ROOT, SITE, Node, Stage, StageError, stage, wait_until

BUDGET = ("--latency-p99", "1s", "--rate", "1/s")
# How much faster than life the short version is: a round trip of 60 ms, 3.3 of 20 ms; the link for 3 s, none for 3 s.
SHORT = {SATELLITE: 10.0, THREE_G: 10.0, OFFLINE: 100.0}


@dataclass(frozen=True, slots=True)
class Figures:
    """Messages by their numbers or ids. ``sent``: different ones; ``received``: by the operator, once each; ``copies``:
    that came again at the broker, and were ``dropped`` by the operator. ``lost`` and ``doubled`` are to be 0.
    ``connections``: made by the node, ``failed``: of these, for want of a link."""

    profile: str
    sent: int
    received: int
    copies: int
    dropped: int
    lost: int
    doubled: int
    commands: int
    answers: int
    deployment: str
    connections: int
    failed: int
    resets: int
    stalls: int
    seconds: float


class HurriedNode(Node):
    """See ``tests.system.hurried``."""

    def launch(self) -> None:
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "tests.system.hurried", "run", "--config", str(self.config)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)


def behind(it: Stage, shaper: Shaper, name: str, *, hurried: bool) -> Node:
    """A node that reaches the broker through the shaper."""
    plain = it.node(name, "[telemetry]\npublish_s = 1.0\n")
    text = plain.config.read_text()
    plain.config.write_text(
        text.replace(f"\nport = {it.broker.port}\n", f"\nport = {shaper.port}\nkeepalive_s = 5\n")
    )
    if not hurried:
        return plain
    node = HurriedNode(plain.folder, plain.name, plain.port)
    it.nodes[it.nodes.index(plain)] = node
    return node


def fill(node: Node, batches: int, ends: int, results: int) -> None:
    """What a node without a link gathered in its outbox."""
    node.state.mkdir(parents=True)
    target = Target(SITE, node.name)
    box = Outbox(node.state / "outbox.db", 64 << 20)

    def encode(series: str, sequence: int, rows: list[dict[str, Any]]) -> bytes:
        return TelemetryBatch(
            series=series, boot_id="before", sequence=sequence, time=1.0, rows=rows
        ).encode()

    row = {
        "stream": "latency",
        "model": "digits",
        "variant": "int8",
        "requests": 600,
        "p50_ms": 0.123456789,
    } | {f"pad{index}": "x" * 20 for index in range(20)}
    box.append(target.telemetry("summary"), [[row]] * batches, encode, Priority.TELEMETRY, {})
    found = [
        DeploymentEnd(
            id=100_000 + index, ended=float(index), origin="fleet", target=str(target), revision=1, model="old",
            version="1.0.0", digest="ab" * 32, state=State.FAILED, why="no such model",
        ).model_dump(mode="json", exclude_none=True)
        for index in range(ends)
    ]  # fmt: skip
    box.append(target.telemetry("events"), [[one] for one in found], encode, Priority.EVENT, {})
    for index in range(results):
        result = Result(id=f"before-{index}", op="logs", state=State.SUCCEEDED, output={"rows": []})
        box.put(target.result("logs", f"before-{index}"), result.encode())
    box.close()


class Observer(threading.Thread):
    """Counts, at the broker, every copy of every message of one node."""

    def __init__(self, broker: Broker, name: str) -> None:
        super().__init__(daemon=True)
        self._broker, self._target = broker, Target(SITE, name)
        self._ready, self._ending = threading.Event(), threading.Event()
        self.copies: Counter[tuple[str, str, int]] = Counter()  # (kind, series or id, number)

    def __enter__(self) -> Observer:
        self.start()
        assert self._ready.wait(15)
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self.join(15)

    def run(self) -> None:
        asyncio.run(self._listen())

    async def _listen(self) -> None:
        async with Recorded(self._broker, f"observer-{self._target.name}", clean=False) as link:
            link.subscribe(self._target.topic("telemetry", "+"), 1)
            link.subscribe(self._target.topic("result", "+", "+"), 1)
            await link.ready()
            self._ready.set()
            while not self._ending.is_set():
                await asyncio.sleep(0.05)
                self._take(link)
            self._take(link)

    def _take(self, link: Recorded) -> None:
        messages, link.messages = link.messages, []
        for message in messages:
            kind, name = message.topic.split("/")[4:6]
            if kind == "result":
                self.copies["result", parse(Result, message.payload).id, 0] += 1
            else:
                batch = parse(TelemetryBatch, message.payload)
                self.copies[name, batch.series, batch.sequence] += 1


def drive(it: Stage, profile: Profile, *, hurried: bool, timeout_s: float, batches: int = 1500) -> Figures:
    """Let a node with a full outbox come up behind the link, deploy to it, command it, kill it; then count."""
    name = "".join(char for char in profile.name.lower() if char.isalnum())
    began = time.monotonic()
    with shaped(profile, it.broker.port) as shaper, Observer(it.broker, name) as observer:
        node = behind(it, shaper, name, hurried=hurried)
        ends, results = 40, 20
        fill(node, batches, ends, results)
        node.launch()
        with Operator(Home(it.home).database) as operator:
            wait_until("a third of what waited", lambda: _came(operator, name) > batches / 3, timeout_s)
        _cut_power(node, shaper)
        node.start()
        deploy = it.fleet(
            "deploy", "digits@1.0.0", "--node", name, *BUDGET, "--wait", "--timeout", str(timeout_s), "--json",
            check=False, timeout_s=timeout_s + 30,
        )  # fmt: skip
        ended = json.loads(deploy.stdout)["nodes"][0]["state"] if deploy.stdout else deploy.stderr
        orders = (("logs",), ("restart", "--model", "digits"), ("bench", "--model", "digits"))
        commands = [_command(it, node, op, timeout_s) for op in orders]
        with Operator(Home(it.home).database) as operator:
            with contextlib.suppress(StageError):  # what did not come is counted below
                wait_until(
                    f"{name}'s messages", lambda: _settled(operator, name, batches, ends + 1), timeout_s
                )
            node.stop()
            with contextlib.suppress(StageError):  # the last batch that the node wrote
                wait_until(f"{name}'s outbox", lambda: _settled(operator, name, batches, ends + 1), 10.0)
            time.sleep(1.0)  # what is on its way to the observer and the operator
            tallies = {stream.name: stream.tally for stream in operator.streams(name)}
            told = operator.ends(name, 1000)
            answered = Counter(result.id for _, result in operator.results(name, 1000))
        counts = shaper.counts
    waiting = Outbox(node.state / "outbox.db", 64 << 20)
    left = len(waiting)
    waiting.close()
    different = len(observer.copies)
    copies = sum(observer.copies.values()) - different
    received = sum(tally.received for tally in tallies.values()) + len(answered)
    expected = {*(f"before-{index}" for index in range(results)), *commands}
    ids = Counter((end.id, end.ended) for end in told)
    return Figures(
        profile.name,
        sent=different,
        received=received,
        copies=copies,
        dropped=sum(tally.duplicates for tally in tallies.values()),
        lost=sum(tally.missing for tally in tallies.values())
        + len(expected - set(answered))
        + (ends + 1 - len(ids))
        + max(0, different - received)
        + max(
            0, batches + ends + results + len(commands) - received
        )  # also what came before the first that came
        + (left if left > 2 else 0),  # the last second's, which the next start sends
        doubled=sum(answered.values()) - len(answered) + len(told) - len(ids) + max(0, received - different),
        commands=len(commands),
        answers=sum(1 for one in commands if answered[one] == 1),
        deployment=ended,
        connections=counts.connections,
        failed=counts.failed,
        resets=counts.resets,
        stalls=counts.stalls,
        seconds=round(time.monotonic() - began, 1),
    )


def _cut_power(node: Node, shaper: Shaper) -> None:
    """kill -9, and what the kernel and the line still have is gone too."""
    assert node.process is not None
    node.process.send_signal(signal.SIGSTOP)
    shaper.cut()
    node.kill()


def _command(it: Stage, node: Node, op: tuple[str, ...], timeout_s: float) -> str:
    """Send a command and wait for its result; the command's id."""
    done = it.fleet(
        "command", *op, "--node", node.name, "--timeout", str(timeout_s), "--json", timeout_s=timeout_s + 30
    )
    return str(json.loads(done.stdout)["id"])


def _came(operator: Operator, name: str) -> int:
    return next((stream.tally.received for stream in operator.streams(name) if stream.name == "summary"), 0)


def _settled(operator: Operator, name: str, batches: int, ends: int) -> bool:
    tallies = {stream.name: stream.tally for stream in operator.streams(name)}
    return (
        set(tallies) == {"summary", "events"}
        and tallies["summary"].last >= batches
        and not any(tally.missing for tally in tallies.values())
        and len(operator.ends(name, 1000)) >= ends
    )


@contextmanager
def prepared(folder: Path) -> Iterator[Stage]:
    """A stage with ``fleet serve`` and digits published."""
    with stage(folder) as it:
        it.serve()
        it.publish(DIGITS)
        yield it


def figures(speed: float | None = None) -> Iterator[Figures]:
    """Of each profile, all at once: in the short version's time, or ``speed`` times as fast as life (1: minutes)."""
    timeout_s = 60.0 if speed is None else max(60.0, 1800.0 / speed)
    with (
        tempfile.TemporaryDirectory(prefix="links-", dir="/tmp") as folder,
        prepared(Path(folder)) as it,
        ThreadPoolExecutor() as threads,
    ):
        factors = {profile: speed or short for profile, short in SHORT.items()}
        work = [
            threads.submit(drive, it, profile.faster(factor), hurried=factor > 1, timeout_s=timeout_s)
            for profile, factor in factors.items()
        ]
        for one in work:
            yield one.result()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speed", type=float, default=1.0)
    bad = 0
    for row in figures(parser.parse_args().speed):
        print(json.dumps(asdict(row)), flush=True)
        bad += row.lost + row.doubled + (row.deployment != "SUCCEEDED") + (row.commands - row.answers)
    print(f"messages lost or doubled, deployments and commands without an end: {bad}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
