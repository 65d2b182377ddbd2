"""A pool and its front door, serving the peers' models in a process of their own.

``python -m tests.peers.ours FOLDER`` prints the front door's port once every model serves; it ends with its input.
"""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.hal import ModelFile
from agent.serving.door.front_door import FrontDoor
from agent.serving.pool import Pool
from agent.serving.spec import Golden, WorkerSpec
from agent.types import Candidate
from tests.peers.served import everything
from tests.peers.servers import Peer, Served
from tests.system.serving_models import bare_node
from tests.system.stage import ROOT

VERSION = "1"  # the only one that Triton knows
BYTES_OF = {"BOOL": 1, "UINT8": 1, "INT8": 1, "FP16": 2, "FP32": 4, "BYTES": 4}  # zeros, or empty strings


@contextmanager
def ours(folder: Path) -> Iterator[Peer]:
    """``folder``: empty."""
    command = [sys.executable, "-m", "tests.peers.ours", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield Peer(process, int(process.stdout.readline()))
        process.stdin.close()
        process.wait(timeout=30)


async def _serve(folder: Path) -> None:
    pool = Pool(folder / "run", lambda _event: None)
    door = FrontDoor(pool, "127.0.0.1:0", folder / "run/http.sock", bare_node, shared_memory=True)
    await door.start()
    try:
        for model in everything(folder / "models"):
            worker = await pool.start(_spec(folder, model))
            await worker.check()
            await pool.route(model.name, worker)
        assert door.address is not None
        print(door.address[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)
    finally:
        await door.stop()
        await pool.close()


def _spec(folder: Path, model: Served) -> WorkerSpec:
    """The golden vectors are zeros, of which every model makes zeros."""
    files = {}
    for tensor in (*model.inputs, *model.outputs):
        files[tensor.name] = folder / f"{model.name}-{tensor.name}.bin"
        size = math.prod(tensor.concrete()) * BYTES_OF.get(tensor.dtype, 8)
        files[tensor.name].write_bytes(bytes(size))
    return WorkerSpec(
        model=model.name,
        version=VERSION,
        digest="0" * 64,
        board="local",
        board_folder=folder,
        candidate=Candidate("fp32", "onnxruntime", "cpu"),
        file=ModelFile(model.file, "onnx", tuple(model.inputs), tuple(model.outputs)),
        golden=Golden(
            1,
            {tensor.name: files[tensor.name] for tensor in model.inputs},
            {tensor.name: files[tensor.name] for tensor in model.outputs},
            0.0,
            0.0,
        ),
        max_body_bytes=1 << 20,
    )


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
