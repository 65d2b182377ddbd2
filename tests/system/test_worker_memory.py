"""What large requests took of a worker's memory is there for the next ones."""

from __future__ import annotations

import asyncio
import http.client
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.system.crashing import Node, scenario
from tests.system.serving_models import make_spec

LIMIT_MB = 400


def data_mb(pid: int) -> float:
    """What RLIMIT_DATA counts."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmData:")[2].split()[0]) / 1024


def infer(port: int, megabytes: int) -> int:
    """The status of a request of the tiny model with so much input; the answer is as large."""
    rows = megabytes << 16
    size = {"binary_data_size": 16 * rows}
    tensor = {"name": "x", "shape": [rows, 4], "datatype": "FP32", "parameters": size}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        headers = {"Inference-Header-Content-Length": str(len(head))}
        body = head + np.ones((rows, 4), np.float32).tobytes()
        connection.request("POST", "/v2/models/double/infer", body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def test_a_worker_gives_back_what_large_requests_took_failed_ones_too(tmp_path: Path) -> None:
    async def steps(node: Node) -> None:
        assert node.door.address is not None
        port, pid = node.door.address[1], node.pid("double")
        start = data_mb(pid)
        for megabytes, status in ((1, 200), (60, 200), (170, 500), (80, 200), (170, 500), (60, 200)):
            assert await asyncio.to_thread(infer, port, megabytes) == status, megabytes
        await node.until(lambda: data_mb(pid) < start + 40)
        assert node.pid("double") == pid

    spec = replace(make_spec(tmp_path, "double", 2.0), memory_mb=LIMIT_MB, max_body_bytes=256 << 20)
    scenario(tmp_path, [spec], steps)
