"""A pool and a front door as a process of their own, whose descriptors and memory are nobody else's.

``python -m tests.system.bare_daemon ROOT``: serves every ``ROOT/*.spec``, prints the front door's port, and goes on
until its standard input ends. Without numpy, as the daemon.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.app.allowance import allow_many_descriptors
from agent.serving.door.front_door import FrontDoor
from agent.serving.door.node import NodeState
from agent.serving.events import PoolEvent
from agent.serving.pool import Pool
from agent.serving.processes.vitals import Patience
from agent.serving.spec import WorkerSpec

ROOT = Path(__file__).resolve().parents[2]
HURRIED = Patience(look_s=0.1, doubt_s=4.0, silent_s=8.0, run_s=8.0)  # of a machine that does much else


@dataclass(frozen=True, slots=True)
class BareDaemon:
    """``run``: the runtime directory."""

    pid: int
    port: int
    run: Path

    def own_socket(self, model: str) -> Path:
        return self.run / "models" / f"{model}.sock"


@contextmanager
def bare_daemon(root: Path, *specs: WorkerSpec) -> Iterator[BareDaemon]:
    """One that serves these models; what it logs is in ``root/log``."""
    for spec in specs:
        (root / f"{spec.model}.spec").write_bytes(spec.to_json())
    command = [sys.executable, "-m", "tests.system.bare_daemon", str(root)]
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
        )
    with process:  # which closes its standard input
        assert process.stdout is not None
        port = process.stdout.readline()
        assert port, (root / "log").read_text()
        yield BareDaemon(process.pid, int(port), root / "run")
    assert process.returncode == 0, (root / "log").read_text()


async def _serve(root: Path) -> None:
    allow_many_descriptors()
    pool = Pool(root / "run", _log, patience=HURRIED)
    door = FrontDoor(pool, "127.0.0.1:0", root / "run/http.sock", _no_node)
    try:
        await door.start()
        for path in sorted(root.glob("*.spec")):
            worker = await pool.start(WorkerSpec.from_json(path.read_bytes()))
            await worker.check()
            await pool.route(worker.spec.model, worker)
        assert door.address is not None and "numpy" not in sys.modules
        print(door.address[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    finally:
        await door.stop()
        await pool.close()


def _log(event: PoolEvent) -> None:
    if event.kind != "stats":
        print(json.dumps([event.kind, event.model, event.text]), file=sys.stderr, flush=True)


def _no_node() -> NodeState:
    raise NotImplementedError("nobody asks for the state of a node that is only a pool")


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
