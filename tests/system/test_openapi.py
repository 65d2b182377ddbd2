"""The OpenAPI description against a real daemon: schemathesis makes requests that fit it, and requests that do not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.digits import DIGITS
from tests.system.stage import Node, stage

SECONDS = 12  # of requests; it starts in two or three more


# Parameters that say where an input's data is.
ELSEWHERE = (
    "binary_data_size",
    "shared_memory_region",
    "shared_memory_byte_size",
    "shared_memory_offset",
)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    monkeypatch.setenv("OVERLAID_SERVING_SHARED_MEMORY", "true")
    with stage(tmp_path) as it:
        node = it.node("n1", mqtt=False)
        node.start()
        node.run("deploy", str(it.publish(DIGITS)), "--latency-p99", "1s", "--rate", "1/s")
        yield node


def for_digits(description: dict[str, Any], metadata: dict[str, Any]) -> dict[str, Any]:
    """The description of a node that serves only this model: then a request that fits it has to be answered.

    What a schema cannot say is left out: binary tensors, compressed bodies, and data in shared memory.
    """
    schemas, parameters = (description["components"][key] for key in ("schemas", "parameters"))
    (given,), (answer,) = metadata["inputs"], metadata["outputs"]
    parameters["model"]["schema"] = {"const": metadata["name"]}
    parameters["version"]["schema"] = {"const": metadata["versions"][0]}
    values = {"type": "number", "minimum": -1e30, "maximum": 1e30}
    schemas["RequestInput"] = {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "properties": {
            "name": {"const": given["name"]},
            "shape": {"const": [1, *given["shape"][1:]]},
            "datatype": {"const": given["datatype"]},
            "data": {"type": "array", "items": values, "minItems": 64, "maxItems": 64},
            "parameters": {"type": "object", "properties": dict.fromkeys(ELSEWHERE, False)},
        },
    }
    schemas["InferRequest"]["properties"]["parameters"]["properties"]["timeout"] = {"enum": [0, 5_000_000]}
    wanted = schemas["RequestOutput"]["properties"]
    wanted["name"] = {"const": answer["name"]}
    wanted["parameters"] = {"type": "object", "properties": {"classification": {"enum": [0, 1, 10]}}}
    schemas["InferRequest"]["properties"]["inputs"]["maxItems"] = 1
    schemas["InferRequest"]["properties"]["outputs"]["maxItems"] = 1
    for path in description["paths"].values():
        if "infer" in path.get("post", {}).get("operationId", ""):
            del path["post"]["requestBody"]["content"]["application/octet-stream"]
            path["post"]["parameters"].remove({"$ref": "#/components/parameters/contentEncoding"})
    return description


def test_the_daemon_answers_as_it_is_described(node: Node, tmp_path: Path) -> None:
    status, description = node.request("GET", "/openapi.json")
    assert status == 200 and description["openapi"] == "3.1.0"
    _, metadata = node.request("GET", "/v2/models/digits")
    (tmp_path / "openapi.json").write_text(json.dumps(for_digits(description, metadata)))
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", str(tmp_path / "openapi.json")]
    command += ["--url", f"http://127.0.0.1:{node.port}", "--checks", "all", "--phases", "coverage,fuzzing"]
    command += ["--max-examples", "8", "--max-time", str(SECONDS), "--seed", "1", "--no-shrink", "--no-color"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-12000:] + done.stderr[-2000:]
    model = node.model("digits")
    assert model is not None and model["ready"] and model["restarts"] == 0 and model["requests"] > 0
