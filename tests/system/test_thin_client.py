"""The thin client as applications use it: a real daemon, a deployed model, threads, asyncio, restarts."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from agent.hal import ModelFile
from agent.serving.client import (
    AsyncClient,
    BadRequest,
    Client,
    ModelNotFound,
)
from agent.serving.spec import WorkerSpec
from agent.types import TensorSpec
from tests.system.digits import DIGITS
from tests.system.serving_models import make_spec
from tests.system.stage import ROOT, Node, stage
from tests.system.test_serving import Node as Pooled

BUDGET = ("--latency-p99", "1s", "--rate", "1/s")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with stage(tmp_path_factory.mktemp("thin")) as it:
        node = it.node("n1", mqtt=False)
        node.config.write_text(
            node.config.read_text().replace("[serving]", "[serving]\nshared_memory = true")
        )
        node.start()
        node.run("deploy", str(it.publish(DIGITS)), *BUDGET)
        yield node


@pytest.fixture(scope="module")
def images() -> tuple[Any, Any]:
    with np.load(DIGITS / "test.npz") as test:
        return test["images"], test["labels"]


def address(node: Node) -> str:
    return str(node.runtime / "http.sock")


def pid_of(node: Node) -> int:
    return int((node.model("digits") or {})["pid"])


def test_the_example_of_the_documentation_runs(node: Node) -> None:
    example = re.findall(r"```python\n(.*?)```", (ROOT / "docs/client.md").read_text(), re.DOTALL)[0]
    code = example.replace("/run/overlaid/http.sock", address(node))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"digit \d of \(1, 10\)\n\d+ so far", done.stdout)


def test_the_module_asks_a_model_once(node: Node) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "agent.serving.client", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    done = run(address(node), "digits")
    assert done.returncode == 0 and re.fullmatch(
        r"logits: float32 \[1, 10\]\nanswered in \d+ us\n", done.stdout
    )
    done = run(address(node), "unknown")
    assert done.returncode == 1 and done.stderr.startswith("ModelNotFound: ")
    assert run().returncode == 2


def test_it_needs_numpy_and_nothing_else(node: Node) -> None:
    code = (
        "import sys; from agent.serving.client import Client\n"
        "import importlib.metadata as m\n"
        "names = {n for n, d in m.packages_distributions().items() if 'numpy' not in d and 'overlaid' not in d}\n"
        "print(sorted(names & {name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", _with_paths(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "[]\n", done.stdout + done.stderr


def _with_paths(code: str) -> str:
    """``-S`` leaves out what .pth files of installed packages import."""
    return f"import sys; sys.path = {sys.path!r}\n{code}"


def test_threads_share_a_client(node: Node, images: tuple[Any, Any]) -> None:
    with Client(address(node)) as client:
        alone = [client.infer("digits", {"image": image[None]})["logits"] for image in images[0][:64]]

        def one(number: int) -> bool:
            answer = client.infer("digits", {"image": images[0][number % 64][None]})["logits"]
            return bool(np.allclose(answer, alone[number % 64], atol=1e-4))

        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(one, range(512)))


def test_tasks_share_a_client(node: Node, images: tuple[Any, Any]) -> None:
    async def run() -> list[int]:
        async with AsyncClient(address(node)) as client:
            assert await client.ready("digits") and not await client.ready("unknown")
            shared = await client.shared(images[0][:1].shape)
            shared[:] = images[0][:1]
            before = (await client.statistics("digits"))["inference_count"]
            calls = [client.infer("digits", {"image": image[None]}) for image in images[0][:100]]
            answers = await asyncio.gather(*calls, client.infer("digits", {"image": shared}))
            assert (await client.statistics("digits"))["inference_count"] == before + 101
            return [int(answer["logits"].argmax()) for answer in answers]

    digits = asyncio.run(run())
    assert np.mean(np.array(digits[:100]) == images[1][:100]) > 0.9 and digits[100] == digits[0]


def test_refusals_have_names(node: Node) -> None:
    with Client(f"http://127.0.0.1:{node.port}") as client:
        for _ in range(2):  # each refusal leaves the connection in order
            with pytest.raises(ModelNotFound, match="unknown"):
                client.infer("unknown", {"image": np.zeros((1, 1, 8, 8), np.float32)})
            with pytest.raises(BadRequest, match="datatype must be FP32"):
                client.infer("digits", {"image": np.zeros((1, 1, 8, 8), np.float64)})
            with pytest.raises(BadRequest, match="missing"):
                client.infer("digits", {})
            assert client.infer("digits", {"image": np.zeros((2, 1, 8, 8), np.float32)})["logits"].shape == (
                2,
                10,
            )
        with pytest.raises(BadRequest, match="astype"):
            client.infer("digits", {"image": np.zeros((1, 1, 8, 8), np.complex64)})
        with pytest.raises(BadRequest, match="timeout_s"):
            client.infer("digits", {"image": np.zeros((1, 1, 8, 8), np.float32)}, timeout_s=0)


def test_any_layout_of_numbers_is_sent_as_it_reads(node: Node, images: tuple[Any, Any]) -> None:
    with Client(address(node)) as client:
        want = client.infer("digits", {"image": images[0][:4]}, ["logits"])["logits"]
        for same in (images[0][:8][:4], np.asfortranarray(images[0][:4]), images[0][:4].astype(">f4")):
            assert np.array_equal(client.infer("digits", {"image": same})["logits"], want)


def test_a_crash_is_named_and_the_next_call_waits_for_the_successor(
    node: Node, images: tuple[Any, Any]
) -> None:
    with Client(address(node), retry_s=30) as client:
        client.infer("digits", {"image": images[0][:1]})
        for _ in range(2):
            os.kill(pid_of(node), signal.SIGKILL)
            assert client.infer("digits", {"image": images[0][:1]})["logits"].shape == (1, 10)
            time.sleep(1)  # the snapshot shows the new process


def test_a_restart_of_the_daemon_costs_nothing_but_time(node: Node, images: tuple[Any, Any]) -> None:
    with Client(address(node), retry_s=60) as client:
        shared = client.shared(images[0][:1].shape)
        shared[:] = images[0][:1]
        want = client.infer("digits", {"image": shared})["logits"]
        node.kill()
        node.launch()
        assert np.array_equal(client.infer("digits", {"image": shared})["logits"], want)
        node.wait()


def test_strings_go_both_ways(tmp_path: Path) -> None:
    async def run() -> list[Any]:
        async with Pooled(tmp_path) as node:
            worker = await node.pool.start(text_spec(tmp_path))
            await node.pool.route("text", worker)

            def ask() -> list[Any]:
                with Client(node.root / "run/http.sock") as client:
                    words = [["größer", "", "a\0b"]]
                    mixed = np.array([[b"bytes", "and", "text"]], object)
                    return [
                        client.infer("text", {"words": given})["same"].tolist()
                        for given in (np.array(words), mixed, words)
                    ]

            return await asyncio.to_thread(ask)

    text = [["größer".encode(), b"", b"a\0b"]]
    assert asyncio.run(run()) == [text, [[b"bytes", b"and", b"text"]], text]


def text_spec(root: Path) -> WorkerSpec:
    """A model that gives strings back."""
    path = root / "text.onnx"
    graph = helper.make_graph(
        [helper.make_node("Identity", ["words"], ["same"])],
        "text",
        [helper.make_tensor_value_info("words", TensorProto.STRING, ["n", 3])],
        [helper.make_tensor_value_info("same", TensorProto.STRING, ["n", 3])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    words, same = (TensorSpec(name, "BYTES", (-1, 3)) for name in ("words", "same"))
    return replace(make_spec(root, "text", 1.0), file=ModelFile(path, "onnx", (words,), (same,)))
