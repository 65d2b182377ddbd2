"""What serving costs beside running the model in the application itself, and beside other servers.

``tiny_added_us``, ``resnet8_added_us``: a daemon's answer to 12 KB over its Unix socket, less ONNX Runtime in this
process with the same model, input and number of threads; ``big_added_us``: the same with 602 KB, ``big_shm_added_us``:
lying in shared memory. ``resnet8_tcp_added_us``, ``resnet8_json_added_us``: over 127.0.0.1 with binary tensors, and in
JSON. ``slow_ratio``: the answer of a 13 ms model over ONNX Runtime. Medians; everything takes turns, and a figure is
the median of the turns. ``*_rps_8``: requests per second of eight connections. ``crash_recovery_ms``: from SIGSEGV of
a worker to the next answer. ``worker_private_mb``: private memory of a further worker of ResNet-8,
at rest.
``serving_memory_mb``: memory of a daemon that serves ResNet-8 under three names, all its processes together (see
tree_mb); ``serving_memory_1_mb``: under one.

``triton_*``, ``mlserver_*``: the same of Triton (Python backend, binary tensors) and MLServer (JSON: it takes no binary
tensors over HTTP), over 127.0.0.1 with ResNet-8. Their targets are this daemon's figures; ``*_memory_1_mb`` have none,
since with one model half of ours is the daemon, which does more than serve.
"""

from __future__ import annotations

import os
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from agent.serving.client.memory import SharedArrays
from agent.serving.client.requests import InferRequests
from agent.types import TensorSpec
from tests.bench.harness import Figure, main
from tests.bench.load import models
from tests.bench.load.generator import Generator
from tests.bench.load.memory import private_mb, tree_mb
from tests.bench.load.models import Model
from tests.bench.load.raw import Raw
from tests.peers import servers
from tests.peers.servers import Peer, Served
from tests.system.stage import Node, Stage, stage, wait_until

TURNS = 9
BUDGET = ("--latency-p99", "1s", "--rate", "0.1/s")
FURTHER = ("resnet8-b", "resnet8-c")
SETTLE_S = 7.0  # a worker that rests for 5 s gives back what large requests took
REQUESTS = 200  # before memory is measured
PEERS = ("triton", "mlserver")


def measure() -> Mapping[str, Figure]:
    with (
        tempfile.TemporaryDirectory(prefix="overlaid-bench-") as name,
        stage(Path(name)) as it,
        ExitStack() as stack,
    ):
        generator = Generator(it.folder)
        served = models.make(it.folder / "models")
        same = [served["resnet8"], *(served["resnet8"].copy(each) for each in FURTHER)]
        node = it.node("n1", mqtt=False)
        node.config.write_text(
            node.config.read_text().replace("[serving]", "[serving]\nshared_memory = true")
        )
        node.start()
        figures = _memories(it, generator, node, same)
        for each in ("tiny", "big", "slow"):
            deploy(it, node, served[each])
        peers = {each: stack.enter_context(_peer(each, it.folder, same[:1])) for each in _present()}
        shared = stack.enter_context(closing(SharedArrays(node.runtime / "shm.sock")))
        bench = _Bench(generator, node, peers, served)
        figures |= bench.latencies(_shared_request(served["big"], shared)) | bench.throughput()
        return figures | {"crash_recovery_ms": Figure(_recovery_ms(node, same), "ms", at_most=100)}


def deploy(it: Stage, node: Node, model: Model) -> None:
    """Publish a model and deploy it on a node; returns when it serves."""
    node.run("deploy", str(it.publish(model.folder)), *BUDGET)
    wait_until(f"model {model.name}", lambda: (node.model(model.name) or {}).get("state") == "SUCCEEDED")


@dataclass(slots=True)
class _Pair:
    """A way to be served beside ONNX Runtime in this process; times in µs, one of each per turn."""

    model: Model
    address: str
    request: bytes
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
    def __init__(
        self, generator: Generator, node: Node, peers: Mapping[str, Peer], served: Mapping[str, Model]
    ) -> None:
        self._generator = generator
        self._peers = peers
        self._served = served
        self._door = _door(node)
        self._tcp = f"127.0.0.1:{node.port}"

    def latencies(self, big_shared: bytes) -> dict[str, Figure]:
        tiny, resnet8, big, slow = (self._served[name] for name in ("tiny", "resnet8", "big", "slow"))
        pairs = {
            "tiny": _Pair(tiny, self._door, tiny.request(), 1000),
            "resnet8": _Pair(resnet8, self._door, resnet8.request(), 500),
            "resnet8_tcp": _Pair(resnet8, self._tcp, resnet8.request(), 500),
            "resnet8_json": _Pair(resnet8, self._tcp, resnet8.json_request(), 50),
            "big": _Pair(big, self._door, big.request(), 200),
            "big_shm": _Pair(big, self._door, big_shared, 200),
            "slow": _Pair(slow, self._door, slow.request(), 20),
        }
        if self._peers:
            pairs["triton"] = _Pair(resnet8, self._peers["triton"].address, resnet8.request(), 500)
            pairs["mlserver"] = _Pair(resnet8, self._peers["mlserver"].address, resnet8.json_request(), 50)
        self._turns(pairs)
        raw = {f"{name}_raw_us": Figure(statistics.median(pairs[name].raw), "us") for name in self._served}
        return raw | {
            "tiny_added_us": Figure(pairs["tiny"].added, "us", at_most=150),
            "resnet8_added_us": Figure(pairs["resnet8"].added, "us", at_most=250),
            "big_added_us": Figure(pairs["big"].added, "us", at_most=350),
            "big_shm_added_us": Figure(pairs["big_shm"].added, "us", at_most=120),
            "slow_ratio": Figure(pairs["slow"].ratio, "ratio", at_most=1.06),
            "resnet8_tcp_added_us": (tcp := Figure(pairs["resnet8_tcp"].added, "us")),
            "resnet8_json_added_us": Figure(pairs["resnet8_json"].added, "us"),
            "triton_added_us": _theirs(pairs["triton"].added if self._peers else None, tcp),
            "mlserver_added_us": _theirs(pairs["mlserver"].added if self._peers else None, tcp),
        }

    def throughput(self) -> dict[str, Figure]:
        tiny, resnet8 = self._served["tiny"].request(), self._served["resnet8"].request()
        theirs = self._rps(self._peers["triton"].address, resnet8, 3000) if self._peers else None
        return {
            "tiny_rps_8": Figure(self._rps(self._door, tiny, 8000), "1/s", at_least=8000),
            "resnet8_rps_8": Figure(self._rps(self._tcp, resnet8, 3000), "1/s"),
            "triton_rps_8": Figure(theirs, "1/s", missing=servers.missing()),
        }

    def _rps(self, address: str, request: bytes, requests: int) -> float:
        runs = [self._generator.run(address, request, requests, connections=8, warmup=200) for _ in range(5)]
        return statistics.median(run.rps for run in runs)

    def _turns(self, pairs: Mapping[str, _Pair]) -> None:
        raw = {name: Raw(model.file, model.sample()) for name, model in self._served.items()}
        for _ in range(TURNS):
            for pair in pairs.values():
                pair.raw.append(raw[pair.model.name].median_us(pair.runs))
                pair.served.append(self._generator.run(pair.address, pair.request, pair.runs).p50_us)


def _present() -> tuple[str, ...]:
    """The other servers on this machine."""
    return () if servers.missing() else PEERS


def _theirs(value: float | None, ours: Figure) -> Figure:
    """A peer's figure, which is to be more than ours."""
    return Figure(value, ours.unit, at_least=ours.value, missing=servers.missing())


def _peer(name: str, folder: Path, same: Sequence[Model]) -> AbstractContextManager[Peer]:
    """A peer that serves these models."""
    served = [
        Served(
            model.name,
            model.file,
            [TensorSpec("x", "FP32", model.shape)],
            [TensorSpec("y", "FP32", (1, model.outputs))],
        )
        for model in same
    ]
    start = {"triton": servers.triton, "mlserver": servers.mlserver}[name]
    return start(Path(tempfile.mkdtemp(dir=folder)), served)


def _shared_request(model: Model, arrays: SharedArrays) -> bytes:
    """A request whose input lies in shared memory."""
    array = arrays.make(model.shape, np.float32)
    array[:] = model.sample()
    return b"".join(InferRequests(arrays.place).make(model.name, {"x": array}, None, None, 0).parts)


def _memories(it: Stage, generator: Generator, node: Node, same: Sequence[Model]) -> dict[str, Figure]:
    """Each server after the other."""
    found: dict[str, float | None] = {}
    deploy(it, node, same[0])
    found["serving_1"] = _memory_mb(generator, _door(node), same[:1], _daemon(node))
    for model in same[1:]:
        deploy(it, node, model)
    found["serving"] = _memory_mb(generator, _door(node), same, _daemon(node))
    private = statistics.median(private_mb(_pid(node, model.name)) for model in same[1:])
    for name in _present():
        for key, few in ((f"{name}_1", same[:1]), (name, same)):
            with _peer(name, it.folder, few) as peer:
                found[key] = _memory_mb(generator, peer.address, few, peer.process.pid)
    one, three = Figure(found["serving_1"], "MB"), Figure(found["serving"], "MB")
    return {
        "worker_private_mb": Figure(private, "MB", at_most=10),
        "serving_memory_mb": three,
        "serving_memory_1_mb": one,
        **{f"{name}_memory_mb": _theirs(found.get(name), three) for name in PEERS},
        **{
            f"{name}_memory_1_mb": Figure(found.get(f"{name}_1"), "MB", missing=servers.missing())
            for name in PEERS
        },
    }


def _door(node: Node) -> str:
    return str(node.runtime / "http.sock")


def _daemon(node: Node) -> int:
    assert node.process is not None
    return node.process.pid


def _memory_mb(generator: Generator, address: str, same: Sequence[Model], pid: int) -> float:
    """A process and all its descendants, after each model has answered and they settled."""
    for model in same:
        generator.run(address, model.json_request(), REQUESTS)
    time.sleep(SETTLE_S)
    return tree_mb(pid)


def _pid(node: Node, name: str) -> int:
    model = node.model(name)
    assert model is not None
    return int(model["pid"])


def _recovery_ms(node: Node, same: Sequence[Model]) -> float:
    """Median over one crash of each model's worker, through its own socket."""
    return statistics.median(_crash_ms(node, model) for model in same)


def _crash_ms(node: Node, model: Model) -> float:
    request = model.request()
    address = str(node.runtime / f"models/{model.name}.sock")
    pid = _pid(node, model.name)
    started = time.perf_counter()
    os.kill(pid, signal.SIGSEGV)
    while not _answers(address, request):
        if time.perf_counter() - started > 30:
            raise RuntimeError(f"model {model.name} does not come back")
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
