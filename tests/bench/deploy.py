"""How long a 5 MB model takes to be deployed, and how fast blocks travel.

``deploy_5mb_s``: the operator's ``deploy --wait`` from its start to SUCCEEDED on the node; 0.5 s of profiling and 1 s
of soak are in it. ``blocks_ratio_to_mosquitto_pub_sub``: speed at which a node asks ``overlaid fleet serve`` for a
40 MB package, checks every block and stores it (synced), over the speed of the same file as one message from
``mosquitto_pub`` to ``mosquitto_sub`` into a file; medians of three each, taking turns, through one mosquitto.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from agent.fleet.home import Home
from agent.fleet.repository import Repository
from agent.link.blocks import BlockFetcher
from agent.link.client import MqttSettings
from agent.package.manifest import Block, Manifest
from agent.package.store import Store
from agent.package.verify import verify_package
from agent.trust import PublicKey, keyring
from tests.bench.harness import Figure, main
from tests.system.bigmodel import make_big_model
from tests.system.brokers import start_mosquitto
from tests.system.stage import SITE, Stage, stage

BUDGET = ("--latency-p99", "1s", "--rate", "0.1/s")
RUNS = 3


def measure() -> Mapping[str, Figure]:
    with (
        tempfile.TemporaryDirectory(prefix="overlaid-bench-") as folder,
        stage(Path(folder), start_mosquitto) as it,
    ):
        it.serve()
        seconds = _deploy_seconds(it)
        blocks, pub_sub = _speeds(it)
        return {
            "deploy_5mb_s": Figure(seconds, "s"),
            "blocks_mb_s": Figure(blocks, "MB/s"),
            "mosquitto_pub_sub_mb_s": Figure(pub_sub, "MB/s"),
            "blocks_ratio_to_mosquitto_pub_sub": Figure(blocks / pub_sub, "ratio"),
        }


def _deploy_seconds(it: Stage) -> float:
    it.node("n1").start()
    it.publish(make_big_model(it.folder / "small", "small", "1.0.0", width=1118))  # 5.0 MB of weights
    started = time.monotonic()
    it.fleet("deploy", "small@1.0.0", "--node", "n1", *BUDGET, "--wait")
    return time.monotonic() - started


def _speeds(it: Stage) -> tuple[float, float]:
    """MB/s (10**6) of block requests and of mosquitto_pub | mosquitto_sub."""
    it.publish(make_big_model(it.folder / "big", "big", "1.0.0", width=3200))
    repository = Repository(Home(it.home).packages)
    digest = repository.find("big", "1.0.0")
    keys = keyring([PublicKey.parse(it.key("packages"))])
    manifest = verify_package(repository.envelope(digest), keys).manifest
    file = it.folder / "big/model.onnx"
    blocks, messages = [], []
    for run in range(RUNS):
        blocks.append(_fetch_speed(it, digest, manifest, it.folder / f"store-{run}"))
        messages.append(_pub_sub_speed(it, file, it.folder / f"message-{run}"))
    return statistics.median(blocks), statistics.median(messages)


def _fetch_speed(it: Stage, digest: str, manifest: Manifest, folder: Path) -> float:
    store = Store(folder, 1 << 30)
    wanted: dict[str, Block] = {block.sha256: block for block in store.missing(manifest.files)}
    client = MqttSettings(host=it.broker.host, port=it.broker.port, client_id="bench", clean_session=True)
    fetcher = BlockFetcher(client, SITE)
    started = time.monotonic()
    asyncio.run(
        fetcher.fetch(
            digest,
            {sha: block.size for sha, block in wanted.items()},
            lambda sha, data: store.put_block(wanted[sha], data),
        )
    )
    seconds = time.monotonic() - started
    time.sleep(1.5)  # the server answers a repeated request within a second as one
    return sum(block.size for block in wanted.values()) / seconds / 1e6


def _pub_sub_speed(it: Stage, file: Path, target: Path) -> float:
    broker = ("-h", it.broker.host, "-p", str(it.broker.port), "-t", "bench")
    with target.open("wb") as out:
        receiver = subprocess.Popen(["mosquitto_sub", *broker, "-C", "1", "-N"], stdout=out)
        time.sleep(0.5)
        started = time.monotonic()
        subprocess.run(["mosquitto_pub", *broker, "-f", str(file)], check=True)
        receiver.wait(timeout=60)
        os.fsync(out.fileno())
        seconds = time.monotonic() - started
    if target.stat().st_size != file.stat().st_size:
        raise RuntimeError("mosquitto_sub did not receive the whole file")
    return file.stat().st_size / seconds / 1e6


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
