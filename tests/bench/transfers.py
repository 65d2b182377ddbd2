"""One file from here to there: through a daemon that is told to deploy it, through mosquitto's own tools, by HTTP."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.control import client
from agent.errors import OverlaidError
from agent.telemetry import queries
from agent.types import Phase, State
from tests.bench.footprint import kibibytes
from tests.system.brokers import HOST, Broker, find_mosquitto, free_port
from tests.system.stage import Node, Stage, stop_process, wait_until

BUDGET = ("--latency-p99", "10s", "--rate", "0.01/s")
DELIVERY = (Phase.DOWNLOADING.value, Phase.VERIFYING.value)
TIMEOUT_S = 120.0
SUMMARY_S = 5.0  # after the last block; the server looks every 2 s


@dataclass(slots=True)
class Watch:
    """One model on one node, looked at every ``every_s`` through the control socket; ``answer_s``: how long each look
    took while blocks arrived. ``longest_s``: the longest time in which their share stood still, once it had begun.
    """

    node: Node
    model: str
    every_s: float = 0.02
    answer_s: list[float] = field(default_factory=list)
    longest_s: float = 0.0
    _share: float = 0.0
    _moved: float = 0.0

    def look(self) -> dict[str, Any]:
        """The model in the daemon's snapshot; empty while either is not there."""
        started = time.monotonic()
        try:
            found = client.ask(self.node.runtime / "control.sock", "snapshot")
        except OverlaidError:
            return {}
        now = time.monotonic()
        model: dict[str, Any] = next((one for one in found["models"] if one["name"] == self.model), {})
        if model.get("phase") == Phase.DOWNLOADING.value and model.get("progress"):
            self.answer_s.append(now - started)
            if self._share:
                self.longest_s = max(self.longest_s, now - self._moved)
            if model["progress"] != self._share:
                self._share, self._moved = model["progress"], now
        return model

    def until_share(self, share: float) -> None:
        """Until so much of the download is there."""
        self._until(f"{share:.0%} of {self.model}", lambda: self._has(share))

    def until_delivered(self) -> None:
        """Until every file is assembled and its digest checked."""
        self._until(f"{self.model} delivered", self._delivered)

    def until_succeeded(self) -> None:
        self._until(f"{self.model} in service", lambda: self.look().get("state") == State.SUCCEEDED.value)

    def _until(self, what: str, ready: Any) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not ready():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what}: not within {TIMEOUT_S:g} s\n{self.node.tail()}")
            time.sleep(self.every_s)

    def _has(self, share: float) -> bool:
        model = self.look()
        return model.get("phase") == Phase.DOWNLOADING.value and (model.get("progress") or 0.0) >= share

    def _delivered(self) -> bool:
        model = self.look()
        if model.get("state") in (State.FAILED.value, State.REJECTED.value, State.TIMED_OUT.value):
            raise RuntimeError(f"{self.model}: {model['why']}\n{self.node.tail()}")
        phase = model.get("phase")
        return model.get("state") == State.SUCCEEDED.value or bool(phase and phase not in DELIVERY)


def delivery_s(node: Node, model: str) -> tuple[float, float]:
    """Seconds of a model's last deployment, as the node recorded them: from DOWNLOADING until the repository's metadata
    was verified, and from then to the end of VERIFYING."""
    with queries.reader(node.state / "telemetry.db") as query:
        steps = queries.deployments(query, 0.0, model)
        begun = max(step["time"] for step in steps if step["phase"] == Phase.DOWNLOADING.value)
        told = queries.events(query, begun, model)
    verified = next(row["time"] for row in told if row["kind"] == "verified")
    after = (b for a, b in itertools.pairwise(steps) if a["phase"] == Phase.VERIFYING.value)
    ended = next(step["time"] for step in after if step["time"] > begun)
    return verified - begun, float(ended - verified)


def settled_bytes(it: Stage) -> int:
    """What ``fleet serve --json`` has sent of all packages, as it counts it itself and tells when it was idle."""
    time.sleep(SUMMARY_S)
    lines = map(json.loads, (it.folder / "serve.log").read_text().splitlines())
    return sum(line["bytes"] for line in lines if line["event"] == "blocks")


def memory_mb(pid: int, name: str) -> float:
    """A line of /proc/PID/status (``VmRSS``, ``VmHWM``) in 10**6 bytes."""
    return kibibytes(Path(f"/proc/{pid}/status"), name) * 1024 / 1e6


def forget_peak(pid: int) -> None:
    """Let ``VmHWM`` start anew (man 5 proc, clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def written_bytes(pid: int) -> int:
    """What a process has caused to be written to disks."""
    found = re.search(r"^write_bytes: (\d+)", Path(f"/proc/{pid}/io").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def pub_sub_s(broker: Broker, file: Path, target: Path) -> float:
    """Seconds of one message from ``mosquitto_pub`` to ``mosquitto_sub``, synced to ``target``."""
    address = ("-h", broker.host, "-p", str(broker.port), "-t", "bench")
    with target.open("wb") as out:
        receiver = subprocess.Popen(["mosquitto_sub", *address, "-C", "1", "-N"], stdout=out)
        time.sleep(0.5)
        started = time.monotonic()
        subprocess.run(["mosquitto_pub", *address, "-f", str(file)], check=True)
        receiver.wait(timeout=TIMEOUT_S)
        os.fsync(out.fileno())
        seconds = time.monotonic() - started
    _check(file, target)
    return seconds


def curl_s(port: int, file: Path, target: Path) -> float:
    """Seconds of ``curl`` from the server on ``port``, synced to ``target``."""
    started = time.monotonic()
    subprocess.run(["curl", "-sSf", "-o", str(target), f"http://{HOST}:{port}/{file.name}"], check=True)
    with target.open("rb") as out:
        os.fsync(out.fileno())
    seconds = time.monotonic() - started
    _check(file, target)
    return seconds


def _check(file: Path, target: Path) -> None:
    if target.stat().st_size != file.stat().st_size:
        raise RuntimeError(f"{target} is not the whole of {file}")
    target.unlink()


@contextmanager
def nginx(root: Path, folder: Path) -> Iterator[int]:
    """nginx that serves a folder on loopback; its port."""
    program = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
    if program is None or find_mosquitto() is None:
        raise RuntimeError("apt-get install nginx mosquitto mosquitto-clients")
    port = free_port()
    folder.mkdir()
    temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    config = folder / "nginx.conf"
    config.write_text(
        f"pid {folder}/nginx.pid;\nevents {{}}\nhttp {{\naccess_log off;\nsendfile on;\n"
        + "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in temporary)
        + f"server {{ listen {HOST}:{port}; root {root}; }}\n}}\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "-c", str(config), "-e", "stderr", "-g", "daemon off; master_process off;"], stderr=log
        )
    try:
        wait_until("nginx", lambda: _listens(port), 10.0)
        yield port
    finally:
        stop_process(process)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False
