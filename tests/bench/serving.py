"""What serving costs beside running the model in the application itself.

``tiny_added_us``, ``resnet8_added_us``: a daemon's answer to 12 KB over its Unix socket, less ONNX Runtime in this
process with the same model, input and number of threads; ``big_added_us``: the same with 602 KB;
``resnet8_tcp_added_us``: over 127.0.0.1. ``slow_ratio``: the answer of a 13 ms model over ONNX Runtime. Medians; the
two take turns, and a figure is the median of the turns. ``tiny_rps_8``: requests per second of eight connections.
``crash_recovery_ms``: from SIGSEGV of a worker to the next answer. ``worker_private_mb``: private memory of a further
small worker. ``serving_memory_mb``: proportional set size of a daemon, all its processes together, that serves one
model.
"""

from __future__ import annotations

import os
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.devices.onnx_cpu import load
from tests.bench.footprint import megabytes
from tests.bench.harness import Figure, main
from tests.bench.load import models
from tests.bench.load.generator import Generator
from tests.bench.load.models import Model, raw_seconds
from tests.system.stage import Node, Stage, children_of, stage, wait_until

TURNS = 9
BUDGET = ("--latency-p99", "1s", "--rate", "0.1/s")
FURTHER = ("small1", "small2", "small3")
SETTLE_S = 2.0


def measure() -> Mapping[str, Figure]:
    with tempfile.TemporaryDirectory(prefix="overlaid-bench-") as name, stage(Path(name)) as it:
        folder = it.folder / "models"
        served = {
            "resnet8": models.resnet8(folder / "resnet8"),
            "tiny": models.tiny(folder / "tiny"),
            "big": models.big(folder / "big"),
            "slow": models.slow(folder / "slow"),
        }
        node = it.node("n1", mqtt=False)
        node.start()
        deploy(it, node, served["resnet8"])
        memory = _memory(node)
        for model in served.values():
            if model.name != "resnet8":
                deploy(it, node, model)
        for small in FURTHER:
            deploy(it, node, models.tiny(folder / small, small))
        bench = _Bench(Generator(it.folder), node, served)
        return bench.latencies() | bench.throughput() | {
            "worker_private_mb": Figure(_private_mb(node), "MB", at_most=10),
            "serving_memory_mb": Figure(memory, "MB"),
            "crash_recovery_ms": Figure(_recovery_ms(node, served["tiny"]), "ms", at_most=100),
        }  # fmt: skip


def deploy(it: Stage, node: Node, model: Model) -> None:
    """Pack a model and deploy it on a node; returns when it serves."""
    package = it.folder / f"package-{model.name}"
    it.fleet("pack", str(model.folder), "-o", str(package))
    node.run("deploy", str(package), *BUDGET)
    wait_until(f"model {model.name}", lambda: (node.model(model.name) or {}).get("state") == "SUCCEEDED")


@dataclass(slots=True)
class _Pair:
    """A way to be served beside ONNX Runtime in this process; times in µs, one of each per turn."""

    model: Model
    address: str
    runs: int
    raw: list[float] = field(default_factory=list)
    served: list[float] = field(default_factory=list)

    @property
    def added(self) -> float:
        return statistics.median(each - raw for each, raw in zip(self.served, self.raw, strict=True))

    @property
    def ratio(self) -> float:
        return statistics.median(each / raw for each, raw in zip(self.served, self.raw, strict=True))


class _Bench:
    def __init__(self, generator: Generator, node: Node, served: Mapping[str, Model]) -> None:
        self._generator = generator
        self._served = served
        self._door = str(node.runtime / "http.sock")
        self._tcp = f"127.0.0.1:{node.port}"

    def latencies(self) -> dict[str, Figure]:
        model = self._served
        tiny = _Pair(model["tiny"], self._door, 1000)
        resnet8 = _Pair(model["resnet8"], self._door, 500)
        tcp = _Pair(model["resnet8"], self._tcp, 500)
        big = _Pair(model["big"], self._door, 200)
        slow = _Pair(model["slow"], self._door, 20)
        self._turns([tiny, resnet8, tcp, big, slow])
        return {
            "tiny_added_us": Figure(tiny.added, "us", at_most=150),
            "resnet8_added_us": Figure(resnet8.added, "us", at_most=250),
            "resnet8_tcp_added_us": Figure(tcp.added, "us"),
            "big_added_us": Figure(big.added, "us", at_most=350),
            "slow_ratio": Figure(slow.ratio, "ratio", at_most=1.06),
            "tiny_raw_us": Figure(statistics.median(tiny.raw), "us"),
            "resnet8_raw_us": Figure(statistics.median(resnet8.raw), "us"),
            "big_raw_us": Figure(statistics.median(big.raw), "us"),
            "slow_raw_us": Figure(statistics.median(slow.raw), "us"),
        }

    def throughput(self) -> dict[str, Figure]:
        request = self._served["tiny"].request()
        found = [
            self._generator.run(self._door, request, 8000, connections=8, warmup=200).rps for _ in range(5)
        ]
        return {"tiny_rps_8": Figure(statistics.median(found), "1/s", at_least=8000)}

    def _turns(self, pairs: list[_Pair]) -> None:
        sessions = {name: load(model.file, threads=1) for name, model in self._served.items()}
        for _ in range(TURNS):
            for pair in pairs:
                session, sample = sessions[pair.model.name], pair.model.sample()
                times = [raw_seconds(session, sample) for _ in range(pair.runs)]
                pair.raw.append(statistics.median(times) * 1e6)
                pair.served.append(self._generator.run(pair.address, pair.model.request(), pair.runs).p50_us)


def _memory(node: Node) -> float:
    """All processes of the daemon together, after they settled, in MB."""
    time.sleep(SETTLE_S)
    assert node.process is not None
    pids = [node.process.pid]
    for pid in pids:
        pids.extend(children_of(pid))
    return sum(megabytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss") for pid in pids)


def _private_mb(node: Node) -> float:
    """Median of the further small workers."""
    rollups = [Path(f"/proc/{_pid(node, name)}/smaps_rollup") for name in FURTHER]
    return statistics.median(
        megabytes(each, "Private_Clean") + megabytes(each, "Private_Dirty") for each in rollups
    )


def _pid(node: Node, name: str) -> int:
    model = node.model(name)
    assert model is not None
    return int(model["pid"])


def _recovery_ms(node: Node, model: Model) -> float:
    """Median over one crash of each further small worker, through its own socket."""
    return statistics.median(_crash_ms(node, model, name) for name in FURTHER)


def _crash_ms(node: Node, model: Model, name: str) -> float:
    request = model.request().replace(b"/tiny/", f"/{name}/".encode(), 1)
    address = str(node.runtime / f"models/{name}.sock")
    pid = _pid(node, name)
    started = time.perf_counter()
    os.kill(pid, signal.SIGSEGV)
    while not _answers(address, request):
        if time.perf_counter() - started > 30:
            raise RuntimeError(f"model {name} does not come back")
        time.sleep(0.001)
    return (time.perf_counter() - started) * 1e3


def _answers(address: str, request: bytes) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        try:
            client.connect(address)
            client.sendall(request)
            return client.recv(64).startswith(b"HTTP/1.1 200")
        except OSError:
            return False


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
