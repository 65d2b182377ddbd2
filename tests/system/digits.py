"""The digits model in tests: asking it over HTTP, and making a version of it that is broken."""

from __future__ import annotations

import http.client
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "models/digits"


def infer_body(image: NDArray[np.float32]) -> bytes:
    """A JSON inference request for one image [1, 8, 8] or a batch [n, 1, 8, 8]."""
    batch = image if image.ndim == 4 else image[None]
    tensor = {"name": "image", "shape": list(batch.shape), "datatype": "FP32", "data": batch.ravel().tolist()}
    return json.dumps({"inputs": [tensor]}).encode()


def ask_digits(port: int, images: NDArray[np.float32]) -> tuple[NDArray[np.int64], list[float]]:
    """Classify images one request each on one connection: guesses and seconds per request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    guesses, seconds = [], []
    try:
        for image in images:
            body = infer_body(image)
            started = time.perf_counter()
            connection.request("POST", "/v2/models/digits/infer", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            data: dict[str, Any] = json.loads(answer.read())
            seconds.append(time.perf_counter() - started)
            if answer.status != 200:
                raise AssertionError(f"{answer.status}: {data}")
            guesses.append(int(np.argmax(data["outputs"][0]["data"])))
    finally:
        connection.close()
    return np.array(guesses), seconds


def break_digits(folder: Path, version: str) -> Path:
    """A copy of the model whose last weights are scrambled: it loads and runs, and computes nonsense."""
    import onnx
    from onnx import numpy_helper

    shutil.copytree(DIGITS, folder)
    for path in folder.glob("*.onnx"):
        model = onnx.load(str(path))
        # scramble every sizeable weight tensor, whatever its type
        for tensor in model.graph.initializer:
            values = numpy_helper.to_array(tensor)
            if values.size >= 64:
                shuffled = np.random.default_rng(0).permutation(values.ravel()).reshape(values.shape)
                tensor.CopyFrom(numpy_helper.from_array(shuffled, tensor.name))
        onnx.save(model, str(path))
    text = (folder / "model.toml").read_text()
    (folder / "model.toml").write_text(text.replace('version = "1.0.0"', f'version = "{version}"', 1))
    return folder
