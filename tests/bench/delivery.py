"""What it takes to bring a model of 200 MB to nodes, and what an interruption costs.

One node: ``overlaid fleet serve``, mosquitto and a daemon of its own, new for each run, which is told to deploy the
model by ``overlaid fleet deploy``. ``verify_ms`` is what asking the repository whether it may be installed takes: the
connection for metadata, five files, the helper process. What is compared begins after that, since the others ask
nobody: DOWNLOADING from there on and VERIFYING as the node recorded them, the connection for blocks, the manifest,
every block checked, stored and synced, every file whole and its digest checked. Beside it ``mosquitto_pub`` →
``mosquitto_sub`` through a second mosquitto and nginx → curl, the same file, synced; the best of five each, taking
turns, because what else a machine does only ever adds to a time.
``broker_peak_mb`` is the first mosquitto's peak after these runs; ``disk_write_ratio`` what the
daemon has caused to be written (/proc/PID/io) from the order to SUCCEEDED over the package;
``transfer_rss_over_idle_mb`` its peak (VmHWM) until all files are there over what it had before the order: the most
of all runs. ``status_p99_ms``: how long one more daemon took to answer ``snapshot`` meanwhile, asked every 20 ms.

Interruptions: ``refetched_windows`` is what the server sent beyond the package, in windows of 4 MiB, when the daemon
is killed (SIGKILL) at half of the download and started again; ``broker_gap_s`` the longest time without a new block
when mosquitto is killed at 30 % and started again at once, the worst of three.

``fanout_50_sent_ratio``: bytes that the server sent over the package's, when 50 simulated nodes are told to deploy
20 MB at the same instant.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.fleet.home import Home
from agent.fleet.repository import Repository
from agent.link.window import MAX_BYTES
from agent.package.manifest import parse_manifest
from tests.bench import transfers
from tests.bench.harness import Figure, main
from tests.bench.transfers import BUDGET, Watch
from tests.system.bigmodel import make_big_model
from tests.system.brokers import Broker, start_mosquitto
from tests.system.many import QUICK, crowd
from tests.system.stage import Stage, stage

RUNS = 5
GAPS = 3
WIDTH = 7071  # 200 MB of weights
NODES = 50
FAN_WIDTH = 2236  # 20 MB
WITH_ONNX = ("jetson-orin-nano", "kv260", "rpi5", "x86-dgpu")  # simulated boards


@dataclass(frozen=True, slots=True)
class _Run:
    """One delivery to one node."""

    verify_s: float
    seconds: float
    written: float
    peak_mb: float
    status_s: tuple[float, ...]


def measure() -> Mapping[str, Figure]:
    with (
        tempfile.TemporaryDirectory(prefix="overlaid-bench-") as name,
        stage(Path(name), start_mosquitto) as it,
    ):
        it.serve("--json")
        _publish(it, "big", WIDTH)
        with start_mosquitto(it.folder / "peer") as peer:
            figures = _one_node(it, peer)
        return figures | _interrupted(it) | _fan_out(it)


def _publish(it: Stage, name: str, width: int) -> None:
    it.publish(make_big_model(it.folder / name, name, "1.0.0", width=width), "--no-check")


def _package_bytes(it: Stage, name: str) -> int:
    """Of a package's distinct blocks and its manifest."""
    repository = Repository(Home(it.home).packages)
    manifest = repository.manifest(repository.find(name, "1.0.0"))
    blocks = {b.sha256: b.size for file in parse_manifest(manifest).files.values() for b in file.blocks}
    return sum(blocks.values()) + len(manifest)


def _one_node(it: Stage, peer: Broker) -> dict[str, Figure]:
    file, size = it.folder / "big/model.onnx", _package_bytes(it, "big")
    ours: list[_Run] = []
    pub_sub, curl = [], []
    with transfers.nginx(file.parent, it.folder / "nginx") as port:
        for number in range(RUNS):
            ours.append(_deliver(it, f"n{number}"))
            pub_sub.append(transfers.pub_sub_s(peer, file, it.folder / "message"))
            curl.append(transfers.curl_s(port, file, it.folder / "download"))
    seconds = min(run.seconds for run in ours)
    answers = sorted(_deliver(it, "asked", 0.02).status_s)
    return {
        "verify_ms": Figure(min(run.verify_s for run in ours) * 1e3, "ms"),
        "delivery_mb_s": Figure(size / seconds / 1e6, "MB/s"),
        "ratio_to_mosquitto_pub_sub": Figure(min(pub_sub) / seconds, "ratio", at_least=0.9),
        "ratio_to_curl": Figure(min(curl) / seconds, "ratio", at_least=0.2),
        "broker_peak_mb": Figure(transfers.memory_mb(it.broker.process.pid, "VmHWM"), "MB", at_most=20),
        "disk_write_ratio": Figure(max(run.written for run in ours) / size, "ratio", at_most=2.2),
        "transfer_rss_over_idle_mb": Figure(max(run.peak_mb for run in ours), "MB", at_most=24),
        "status_p99_ms": Figure(answers[int(0.99 * len(answers))] * 1e3, "ms"),
    }


def _deliver(it: Stage, name: str, every_s: float = 0.25) -> _Run:
    node = it.node(name)
    node.start()
    assert node.process is not None
    pid = node.process.pid
    time.sleep(1.0)  # what starting takes is over
    idle_mb, written = transfers.memory_mb(pid, "VmRSS"), transfers.written_bytes(pid)
    transfers.forget_peak(pid)
    watch = Watch(node, "big", every_s)
    it.fleet("deploy", "big@1.0.0", "--node", name, *BUDGET)
    watch.until_delivered()
    peak_mb = transfers.memory_mb(pid, "VmHWM")
    watch.until_succeeded()
    written = transfers.written_bytes(pid) - written
    node.stop()
    verify_s, seconds = transfers.delivery_s(node, "big")
    return _Run(verify_s, seconds, written, peak_mb - idle_mb, tuple(watch.answer_s))


def _interrupted(it: Stage) -> dict[str, Figure]:
    windows = _refetched(it) / MAX_BYTES
    gaps = [_broker_gap(it, f"g{number}") for number in range(GAPS)]
    return {
        "refetched_windows": Figure(windows, "windows", at_most=1),
        "broker_gap_s": Figure(max(gaps), "s", at_most=5),
    }


def _refetched(it: Stage) -> int:
    before = transfers.settled_bytes(it)
    node = it.node("killed")
    node.start()
    watch = Watch(node, "big")
    it.fleet("deploy", "big@1.0.0", "--node", "killed", *BUDGET)
    watch.until_share(0.5)
    node.kill()
    node.start()
    watch.until_delivered()
    sent = transfers.settled_bytes(it) - before
    node.stop()
    return sent - _package_bytes(it, "big")


def _broker_gap(it: Stage, name: str) -> float:
    node = it.node(name)
    node.start()
    watch = Watch(node, "big")
    it.fleet("deploy", "big@1.0.0", "--node", name, *BUDGET)
    watch.until_share(0.3)
    it.broker.kill()
    it.broker.start()
    watch.until_delivered()
    node.stop()
    return watch.longest_s


def _fan_out(it: Stage) -> dict[str, Figure]:
    _publish(it, "fan", FAN_WIDTH)
    before = transfers.settled_bytes(it)
    boards = [part for board in WITH_ONNX for part in ("--board", board)]
    with crowd(it, NODES, "--wait", "fan", "--for", "100s", *QUICK, *boards) as nodes:
        nodes.wait_online()
        it.fleet("deploy", "fan@1.0.0", "--group", "sim", *BUDGET)
        code, report = nodes.report(120.0)
    if code != 0:
        raise RuntimeError(f"not every node has the model: {report['failures'] or report['states']}")
    sent = transfers.settled_bytes(it) - before
    return {"fanout_50_sent_ratio": Figure(sent / _package_bytes(it, "fan"), "ratio", at_most=1.1)}


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
