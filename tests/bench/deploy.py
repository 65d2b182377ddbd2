"""How long a 5 MB model takes to be deployed.

``deploy_5mb_s``: the operator's ``deploy --wait`` from its start to SUCCEEDED on the node; 0.5 s of profiling and 1 s
of soak are in it. How fast blocks travel: ``tests.bench.delivery``.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from tests.bench.harness import Figure, main
from tests.system.bigmodel import make_big_model
from tests.system.brokers import start_mosquitto
from tests.system.stage import Stage, stage

BUDGET = ("--latency-p99", "1s", "--rate", "0.1/s")


def measure() -> Mapping[str, Figure]:
    with (
        tempfile.TemporaryDirectory(prefix="overlaid-bench-") as folder,
        stage(Path(folder), start_mosquitto) as it,
    ):
        it.serve()
        return {"deploy_5mb_s": Figure(_deploy_seconds(it), "s")}


def _deploy_seconds(it: Stage) -> float:
    it.node("n1").start()
    it.publish(make_big_model(it.folder / "small", "small", "1.0.0", width=1118))  # 5.0 MB of weights
    started = time.monotonic()
    it.fleet("deploy", "small@1.0.0", "--node", "n1", *BUDGET, "--wait")
    return time.monotonic() - started


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
