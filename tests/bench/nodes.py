"""How well one operator and one broker carry 50 nodes that are told to run the same model at the same instant.

The nodes are simulated (``overlaid sim nodes``): real daemons in one process, modelled devices. ``deploy_p95_s`` is
from the desired state's arrival at a node to its end, 0.2 s of soak, 0.2 s of profiling a candidate and what loading
takes on the boards in it; ``blocks_sent_ratio`` is frames that the broker saw over distinct blocks; ``wire_mb`` what
these frames weigh, ``received_mb`` what each node received of them; ``mb_per_node`` the resident memory that came with
a node.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.bench.harness import Figure, main
from tests.system.brokers import start_mosquitto
from tests.system.digits import DIGITS
from tests.system.many import QUICK, crowd
from tests.system.stage import stage

NODES = 50


def measure() -> Mapping[str, Figure]:
    with (
        tempfile.TemporaryDirectory(prefix="overlaid-bench-") as folder,
        stage(Path(folder), start_mosquitto) as it,
    ):
        it.serve()
        it.publish(DIGITS, "--overlay", "npu")
        with crowd(it, NODES, "--wait", "digits", "--for", "100s", *QUICK) as nodes:
            nodes.wait_online()
            nodes.deploy("digits@1.0.0")
            _, report = nodes.report()
    used = report["footprint"]
    return {
        "nodes_succeeded": Figure(report["states"].get("SUCCEEDED", 0), "nodes", at_least=NODES),
        "nodes_online_s": Figure(used["start_s"], "s"),
        "deploy_p95_s": Figure(report["deploy_p95_s"], "s"),
        "blocks_sent_ratio": Figure(report["blocks_sent_each"], "ratio", at_most=1.2),
        "wire_mb": Figure(report["wire"]["frame_bytes"] / 1e6, "MB"),
        "received_mb": Figure(report["received_bytes"] / NODES / 1e6, "MB"),
        "mb_per_node": Figure(used["mb_per_node"], "MB"),
        "cpu_s": Figure(used["cpu_s"], "s"),
    }


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
