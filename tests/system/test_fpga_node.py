"""A daemon without rights on a board whose FPGA another process lends: overlay and models come as packages.

Like a PYNQ-Z2, the machine has no model runtime (there are no wheels for it). It does not run programs in numpy either,
which could be faster than the model that stands for the FPGA.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.devices.fpga_service.wire import SOCKET_VARIABLE
from agent.devices.remote_transport import ask_status
from tests.system.digits import DIGITS, ROOT, infer_body
from tests.system.stage import Node, Stage, stage, wait_until
from tests.system.test_fpga_service import USER, Service
from tests.unit.devices.fpga_lending import short_folder

MODEL = "camera-digits"
NO_NUMPY = """
import sys
if sys.orig_argv[-2:] == ["agent.devices.cpu", "program"]:
    sys.exit("not on this machine")
"""
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
            for name in ("onnxruntime", "ai_edge_litert", "pyopencl"):
                (tmp_path / f"{name}.py").write_text("raise ImportError('no wheel for this machine')\n")
            (tmp_path / "sitecustomize.py").write_text(NO_NUMPY)
            with monkeypatch.context() as bare:
                bare.setenv("PYTHONPATH", str(tmp_path))
                node.start()
            yield it
        finally:
            node.stop()
            service.end()
            os.umask(umask)


def test_a_shared_overlay(it: Stage) -> None:
    [node] = it.nodes
    wait_until("the board", lambda: node.run("devices", check=False).returncode == 0)
    board = json.loads(node.run("devices", "--json").stdout)
    assert [found["id"] for found in board["devices"]] == ["cpu", "fpga"]
    it.publish(ROOT / "bitstreams" / "npu")
    it.publish(ROOT / "models" / MODEL, "--overlay", "npu")
    it.publish(DIGITS, "--overlay", "npu")
    it.fleet("deploy", "npu@1", "--node", node.name, *BUDGET, "--wait")
    first = deploy(it, MODEL, "1.0.0")
    assert ask_status().clients == (first,)
    second = deploy(it, "digits", "1.0.0")  # while the other one serves
    assert set(ask_status().clients) == {first, second}
    check_answers(node)
    it.publish(next_version(it.folder / "newer"), "--overlay", "npu")
    newer = deploy(it, "digits", "1.1.0")  # while the old version serves
    assert newer != second
    wait_until("the old version to end", lambda: set(ask_status().clients) == {first, newer})
    check_answers(node)
    assert ask_status().overlay == "npu"
    for name in (MODEL, "digits"):
        it.fleet("undeploy", name, "--node", node.name)
    wait_until("the FPGA", lambda: not ask_status().clients)


def deploy(it: Stage, model: str, version: str) -> int:
    """Deploy it, which must succeed and choose the FPGA: its process."""
    [node] = it.nodes
    it.fleet("deploy", f"{model}@{version}", "--node", node.name, *BUDGET, "--wait")
    found = node.model(model)
    assert found is not None
    assert (found["candidate"]["device"], found["version"]) == ("fpga", version)
    return int(found["pid"])


def check_answers(node: Node) -> None:
    """Both models, by turns."""
    with np.load(ROOT / "models" / MODEL / "test.npz") as test, np.load(DIGITS / "test.npz") as small:
        images, labels = test["images"][:5], test["labels"][:5]
        small_images, small_labels = small["images"][:5], small["labels"][:5]
    for i in range(5):
        image = images[i].reshape(1, 1, 64, 64).astype(np.float32) / np.float32(255)
        assert ask(node, MODEL, image) == int(labels[i])
        assert ask(node, "digits", small_images[i].reshape(1, 1, 8, 8)) == int(small_labels[i])


def ask(node: Node, model: str, image: NDArray[np.float32]) -> int:
    """The class that a model finds."""
    status, answer = node.request("POST", f"/v2/models/{model}/infer", infer_body(image))
    assert status == 200, answer
    return int(np.argmax(answer["outputs"][0]["data"]))


def next_version(folder: Path) -> Path:
    """The digits model, as version 1.1.0."""
    shutil.copytree(DIGITS, folder)
    text = (folder / "model.toml").read_text()
    (folder / "model.toml").write_text(text.replace('version = "1.0.0"', 'version = "1.1.0"', 1))
    return folder
