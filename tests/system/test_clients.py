"""Unmodified clients against a node: tritonclient, and the MLPerf Tiny models bit for bit as LiteRT alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from tests.system import mlperf
from tests.system.digits import DIGITS
from tests.system.stage import Node, Stage, stage
from tests.unit.fleet.strings_model import WORDS, make_words

BUDGET = ("--latency-p99", "1s", "--rate", "1/s")


@pytest.fixture(scope="module")
def it(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("clients")) as it:
        yield it


@pytest.fixture(scope="module")
def node(it: Stage) -> Node:
    node = it.node("n1", mqtt=False)
    node.start()
    node.run("deploy", str(it.publish(DIGITS)), *BUDGET)
    return node


@pytest.fixture
def client(node: Node) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(f"127.0.0.1:{node.port}") as client:
        yield client


def test_tritonclient_reads_health_and_metadata(client: InferenceServerClient) -> None:
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("digits")
    assert client.get_server_metadata()["name"] == "overlaid"
    metadata = client.get_model_metadata("digits")
    assert metadata["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]
    assert metadata["versions"] == ["1.0.0"]


@pytest.mark.parametrize("binary", [False, True])
def test_tritonclient_infers_with_json_and_binary_tensors(
    client: InferenceServerClient, binary: bool
) -> None:
    with np.load(DIGITS / "test.npz") as test:
        images, labels = test["images"][:50], test["labels"][:50]
    tensor = InferInput("image", list(images.shape), "FP32")
    tensor.set_data_from_numpy(images, binary_data=binary)
    output = InferRequestedOutput("logits", binary_data=binary)
    answer = client.infer("digits", [tensor], outputs=[output], request_id="batch-1")
    logits = answer.as_numpy("logits")
    assert logits.shape == (50, 10) and logits.dtype == np.float32
    assert np.mean(np.argmax(logits, axis=1) == labels) > 0.95
    assert answer.get_response()["id"] == "batch-1"


@pytest.fixture(scope="module")
def words(it: Stage, node: Node) -> str:
    """A model with strings."""
    node.run("deploy", str(it.publish(make_words(it.folder / "words-model"))), *BUDGET)
    return "words"


@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [False, True])
def test_tritonclient_exchanges_strings(
    client: InferenceServerClient, words: str, binary: bool, coding: str | None
) -> None:
    asked = np.array([[word.encode()] for word in WORDS], np.object_)
    tensor = InferInput("word", [4, 1], "BYTES")
    tensor.set_data_from_numpy(asked, binary_data=binary)
    outputs = [InferRequestedOutput(name, binary_data=binary) for name in ("echo", "number")]
    outputs.append(InferRequestedOutput("scores", binary_data=binary, class_count=2))
    answer = client.infer(
        words,
        [tensor],
        outputs=outputs,
        timeout=5_000_000,
        priority=1,
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
    )
    texts = [text if isinstance(text, bytes) else text.encode() for text in answer.as_numpy("echo")[:, 0]]
    assert texts == [word.encode() for word in WORDS]
    assert answer.as_numpy("number").tolist() == [[0], [1], [2], [3]]
    best = [text.decode() if isinstance(text, bytes) else text for text in answer.as_numpy("scores")[:, 0]]
    assert best == [f"0.900000:{index}" for index in range(4)]


def test_tritonclient_sends_bytes_that_are_no_text(client: InferenceServerClient, words: str) -> None:
    tensor = InferInput("word", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[b"\xff"]], np.object_))
    with pytest.raises(InferenceServerException, match="UTF-8"):
        client.infer(words, [tensor])


@pytest.mark.skipif(mlperf.reason_to_skip() is not None, reason=str(mlperf.reason_to_skip()))
@pytest.mark.parametrize("name", mlperf.MODELS)
def test_mlperf_tiny_answers_bit_for_bit_as_litert(
    it: Stage, node: Node, client: InferenceServerClient, name: str
) -> None:
    folder = mlperf.make_folder(it.folder / name, name)
    node.run("deploy", str(it.publish(folder)), *BUDGET)
    reference = mlperf.Reference(mlperf.MODELS[name])
    rng = np.random.default_rng(7)
    for value in [*mlperf.real_inputs(name), *(reference.random_input(rng) for _ in range(5))]:
        spec = client.get_model_metadata(name)["inputs"][0]
        tensor = InferInput(spec["name"], list(value.shape), spec["datatype"])
        tensor.set_data_from_numpy(value, binary_data=True)
        answer = client.infer(name, [tensor])
        got = answer.as_numpy(reference.output["name"])
        assert got.tobytes() == reference.run(value).tobytes()
    node.run("undeploy", name)
