"""A daemon without rights on a board whose FPGA another process lends: overlay and model come as packages.

Like a PYNQ-Z2, the machine has no model runtime (there are no wheels for it): programs run on the FPGA, or in numpy.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.devices.fpga_service.wire import SOCKET_VARIABLE
from agent.devices.remote_transport import ask_status
from tests.system.digits import ROOT, infer_body
from tests.system.stage import Stage, stage, wait_until
from tests.system.test_fpga_service import USER, Service
from tests.unit.devices.fpga_lending import short_folder

MODEL = "camera-digits"
BUDGET = ("--latency-p99", "500ms", "--rate", "2/s")


@pytest.fixture
def it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    umask = os.umask(0o022)  # the service loads nothing that others may write
    with short_folder() as folder, stage(tmp_path) as it:
        monkeypatch.setenv(SOCKET_VARIABLE, str(folder / "socket"))
        node = it.node("cell")
        node.runtime.mkdir()
        service = Service(folder, "--transport", "functional", "--user", USER, "--allow", str(node.runtime))
        try:
            it.serve()
            for name in ("onnxruntime", "ai_edge_litert"):
                (tmp_path / f"{name}.py").write_text("raise ImportError('no wheel for this machine')\n")
            with monkeypatch.context() as bare:
                bare.setenv("PYTHONPATH", str(tmp_path))
                node.start()
            yield it
        finally:
            node.stop()
            service.end()
            os.umask(umask)


def test_a_delivered_overlay_runs_a_model_through_the_service(it: Stage) -> None:
    [node] = it.nodes
    wait_until("the board", lambda: node.run("devices", check=False).returncode == 0)
    board = json.loads(node.run("devices", "--json").stdout)
    assert [found["id"] for found in board["devices"]] == ["cpu", "fpga"]
    it.publish(ROOT / "bitstreams" / "npu")
    it.publish(ROOT / "models" / MODEL, "--overlay", "npu")
    it.fleet("deploy", "npu@1", "--node", node.name, *BUDGET, "--wait")
    it.fleet("deploy", f"{MODEL}@1.0.0", "--node", node.name, *BUDGET, "--wait")
    found = node.model(MODEL)
    assert found is not None
    assert found["candidate"]["device"] == "fpga"
    assert ask_status().clients == (found["pid"],)
    with np.load(ROOT / "models" / MODEL / "test.npz") as test:
        image = test["images"][0].reshape(1, 1, 64, 64).astype(np.float32) / np.float32(255)
        label = int(test["labels"][0])
    status, answer = node.request("POST", f"/v2/models/{MODEL}/infer", infer_body(image))
    assert status == 200
    assert int(np.argmax(answer["outputs"][0]["data"])) == label
    it.fleet("undeploy", MODEL, "--node", node.name)
    wait_until("the FPGA", lambda: not ask_status().clients)
