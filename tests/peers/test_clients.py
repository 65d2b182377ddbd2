"""Unmodified clients: what tritonclient gets from Triton it gets from us, and KServe's client works as well."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from typing import Any

import numpy as np
import pytest
import tritonclient.http as sync
from tritonclient.http import aio
from tritonclient.utils import InferenceServerException
from tritonclient.utils import shared_memory as memory

from tests.peers import servers
from tests.peers.servers import HERE, Peer

X = np.arange(8, dtype=np.float32).reshape(2, 4)
WORDS = np.array([["a", "é", "", "long " * 99]], dtype=object)


def _inputs(binary: bool) -> list[sync.InferInput]:
    tensors = []
    for name in ("a", "b"):
        tensor = sync.InferInput(name, [2, 4], "FP32")
        tensor.set_data_from_numpy(X, binary_data=binary)
        tensors.append(tensor)
    return tensors


def _values(answer: sync.InferResult, *names: str) -> list[Any]:
    return [answer.as_numpy(name).tolist() for name in names]


def _tour(peer: Peer) -> dict[str, Any]:
    """What the threads' client finds out of a server."""
    found: dict[str, Any] = {}
    with sync.InferenceServerClient(peer.address) as client:
        found["live"] = client.is_server_live()
        found["ready"] = (
            client.is_server_ready(),
            client.is_model_ready("pair"),
            client.is_model_ready("nope"),
        )
        found["inputs"] = client.get_model_metadata("pair")["inputs"]
        found["dims"] = [each["dims"] for each in client.get_model_config("pair")["input"]]
        found["index"] = [each["name"] for each in client.get_model_repository_index()]
        for binary in (False, True):
            wanted = [
                sync.InferRequestedOutput("sum", binary_data=binary),
                sync.InferRequestedOutput("difference", binary_data=not binary),
            ]
            answer = client.infer(
                "pair", _inputs(binary), outputs=wanted, request_id="7", priority=1, timeout=10**7
            )
            found[f"binary {binary}"] = answer.get_response()["id"], _values(answer, "sum", "difference")
        for coding in ("gzip", "deflate"):
            answer = client.infer(
                "pair",
                _inputs(True),
                request_compression_algorithm=coding,
                response_compression_algorithm=coding,
            )
            found[coding] = _values(answer, "sum", "difference")
        wanted = [sync.InferRequestedOutput("sum", class_count=2)]
        found["classes"] = _values(client.infer("pair", _inputs(True), outputs=wanted), "sum")
        words = sync.InferInput("x", [1, 4], "BYTES")
        words.set_data_from_numpy(WORDS)
        found["strings"] = _values(client.infer("bytes", [words]), "y")
        for model, inputs in (("nope", _inputs(True)), ("pair", _inputs(True)[:1])):
            with pytest.raises(InferenceServerException) as error:
                client.infer(model, inputs)
            found[f"{model} with {len(inputs)}"] = error.value.status()
        found["runs"] = _counted(client)
    return found


def _counted(client: sync.InferenceServerClient) -> bool:
    """Whether the statistics know of the runs: both servers count a moment after they answered."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if client.get_inference_statistics("bytes")["model_stats"][0]["inference_count"] > 0:
            return True
        time.sleep(0.05)
    return False


def test_tritonclient(both: tuple[Peer, Peer]) -> None:
    ours, triton = (_tour(peer) for peer in both)
    assert ours == triton
    assert ours["binary True"] == ("7", [(X + X).tolist(), (X - X).tolist()])


async def _walk(peer: Peer) -> list[Any]:
    """The same client for asyncio: many requests at once."""
    async with aio.InferenceServerClient(peer.address) as client:
        assert await client.is_model_ready("pair")
        answers = await asyncio.gather(*(client.infer("pair", _inputs(n % 2 == 0)) for n in range(20)))
        return [_values(answer, "sum", "difference") for answer in answers]


def test_tritonclient_for_asyncio(both: tuple[Peer, Peer]) -> None:
    ours, triton = (asyncio.run(_walk(peer)) for peer in both)
    assert ours == triton


def _in_memory(peer: Peer) -> list[Any]:
    """Input and output in system shared memory."""
    key = f"/overlaid-peers-client-{os.getpid()}"
    region = memory.create_shared_memory_region("r", key, 2 * X.nbytes)
    with sync.InferenceServerClient(peer.address) as client:
        try:
            memory.set_shared_memory_region(region, [X])
            client.register_system_shared_memory("r", key, 2 * X.nbytes)
            tensor = sync.InferInput("x", [2, 4], "FP32")
            tensor.set_shared_memory("r", X.nbytes)
            wanted = sync.InferRequestedOutput("y")
            wanted.set_shared_memory("r", X.nbytes, offset=X.nbytes)
            client.infer("fp32", [tensor], outputs=[wanted])
            status = client.get_system_shared_memory_status("r")
            return [status, memory.get_contents_as_numpy(region, np.float32, [4, 4]).tolist()]
        finally:
            client.unregister_system_shared_memory("r")
            memory.destroy_shared_memory_region(region)


def test_tritonclient_with_shared_memory(both: tuple[Peer, Peer]) -> None:
    ours, triton = (_in_memory(peer) for peer in both)
    assert ours == triton
    assert ours[1] == np.concatenate([X, X]).tolist()


def test_kserve_client(both: tuple[Peer, Peer]) -> None:
    """Not beside Triton: there ``is_server_live`` fails, which reads a JSON body of the health calls."""
    command = [str(servers.PYTHON), str(HERE / "kserve_client.py"), both[0].address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    answer = ["7", "pair", "sum", [2, 4], (X + X).tolist()]
    assert json.loads(done.stdout) == {
        "live": True,
        "ready": True,
        "model ready": True,
        "binary False": answer,
        "binary True": answer,
        "unknown model": ["HTTPStatusError", True],
    }
