"""``python -m tests.soak --minutes 6``: models of a real daemon under mixed load, crashes and changes.

Fails on a wrong answer, on a refusal by the model that nobody touches, and when the daemon, a zygote or a worker holds
more and more memory, descriptors or threads.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.soak.clients import Load
from tests.soak.watch import Watch
from tests.system.digits import DIGITS
from tests.system.stage import Node, Stage, StageError, stage, wait_until

BUDGET = ("--latency-p99", "1s", "--rate", "1/s")
MODELS = (
    "steady",
    "fragile",
    "restless",
)  # untouched; crashed and restarted; replaced, removed and deployed again
LOOK_S = 1.0
CHANGE_S = 4.0
CRASH_S = 16.0  # five crashes a minute would make the daemon give a model up
SAY_S = 10.0


def soak(seconds: float) -> int:
    """0 when nothing is wrong."""
    os.environ["OVERLAID_SERVING_SHARED_MEMORY"] = "true"
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, stage(Path(folder)) as it:
        node = it.node("n1", mqtt=False)
        node.start()
        assert node.process is not None
        for model in MODELS:
            node.run("deploy", package(it, model, 1), *BUDGET)
        load, watch = Load(node.port, node.runtime, "steady"), Watch(node.process.pid)
        before = watch.look()
        load.start(*MODELS)
        changes = disturb(seconds, load, watch, Chaos(it, node))
        load.stop()
        problems = [*dict.fromkeys(load.wrong)][:20]
        with contextlib.suppress(StageError):
            wait_until("the end of all connections", lambda: settled(before, watch), 15.0)
        after = watch.look()
        trends = watch.trends()
        problems += [f"leak: {trend}" for trend in trends if trend.leaks]
        if after.keys() != before.keys():
            problems.append(f"processes: {sorted(before)} before, {sorted(after)} after")
        if after["daemon"].descriptors > before["daemon"].descriptors + 2:
            problems.append(f"descriptors of the daemon: {before['daemon']} before, {after['daemon']} after")
        print(f"{seconds:.0f} s: {dict(load.told)}; changes: {dict(changes)}")
        print(*trends, sep="\n")
        if not load.told["answered"]:
            problems.append("nothing was answered")
    print(*(f"PROBLEM: {problem}" for problem in problems), sep="\n")
    return 1 if problems else 0


def settled(before: object, watch: Watch) -> bool:
    now = watch.look()
    return isinstance(before, dict) and now["daemon"].descriptors <= before["daemon"].descriptors


def package(it: Stage, model: str, version: int) -> str:
    """The package of the digits model under another name and version."""
    source = it.folder / f"{model}-{version}"
    shutil.copytree(DIGITS, source)
    text = (source / "model.toml").read_text()
    text = text.replace('name = "digits"', f'name = "{model}"', 1).replace('"1.0.0"', f'"{version}.0.0"', 1)
    (source / "model.toml").write_text(text)
    return str(it.publish(source))


class Chaos:
    """What happens to the models; each returns when it is done."""

    def __init__(self, it: Stage, node: Node) -> None:
        self._node = node
        self._packages = [package(it, "restless", version) for version in (2, 3)]
        self._rng = random.Random(1)

    def crash(self) -> None:
        pid = (self._node.model("fragile") or {}).get("pid")
        if pid:
            os.kill(pid, self._rng.choice((signal.SIGSEGV, signal.SIGKILL)))

    def restart(self) -> None:
        self._node.run("restart", "fragile")

    def replace(self) -> None:
        self._packages.reverse()
        self._node.run("deploy", self._packages[0], *BUDGET)

    def remove(self) -> None:
        self._node.run("undeploy", "restless")
        self.replace()


def disturb(seconds: float, load: Load, watch: Watch, chaos: Chaos) -> Counter[str]:
    """Until the time is over; what happened, by name."""
    ways: list[Callable[[], None]] = [chaos.replace, chaos.restart, chaos.remove]
    done: Counter[str] = Counter()
    began = time.monotonic()
    changed = crashed = said = began
    while (now := time.monotonic()) < began + seconds:
        time.sleep(LOOK_S)
        found = watch.look()
        way = None
        if now - crashed >= CRASH_S:
            way, crashed = chaos.crash, now
        elif now - changed >= CHANGE_S:
            way, changed = ways[done.total() % len(ways)], now
        if way is not None:
            done[way.__name__] += 1
            try:
                way()
            except StageError as error:
                load.wrong.append(f"{way.__name__}: {error}")
        if now - said >= SAY_S:
            said = now
            memory = ", ".join(f"{name} {one.private_mb:.1f}" for name, one in found.items())
            print(
                f"{now - began:4.0f} s: {dict(load.told)}, {len(load.wrong)} problems; MB: {memory}",
                flush=True,
            )
    return done


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--seconds", type=float, default=0.0, help="in addition to the minutes")
    arguments = parser.parse_args()
    return soak(60 * arguments.minutes + arguments.seconds)


if __name__ == "__main__":
    sys.exit(main())
