"""Generated models of known cost, so that every machine measures the same layers.

========= ===== =================================================
tiny      12 KB one matrix product, ~20 µs
resnet8   12 KB the layers of MLPerf Tiny's ResNet-8, 12.5 M MACs
big      602 KB a 224 x 224 image averaged, ~20 µs
slow     602 KB as many convolutions as take ~13 ms here
========= ===== =================================================
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from agent.devices.onnx_cpu import load

SEED = 8
SLOW_S = 0.013
GOLDEN = 2  # samples

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Model:
    """A folder for ``overlaid fleet pack`` whose model maps FP32 ``x`` of ``shape`` to ``y`` of [1, ``outputs``]."""

    name: str
    folder: Path
    shape: tuple[int, ...]
    outputs: int

    @property
    def file(self) -> Path:
        return self.folder / "model.onnx"

    def sample(self) -> Array:
        """One input."""
        return np.random.default_rng(SEED).standard_normal(self.shape).astype(np.float32)

    def request(self, host: str = "localhost") -> bytes:
        """An inference request with binary tensors both ways, as it goes over a connection."""
        data = self.sample().tobytes()
        given = {
            "name": "x", "shape": self.shape, "datatype": "FP32", "parameters": {"binary_data_size": len(data)},
        }  # fmt: skip
        return self.post({"inputs": [given], "outputs": [WANTED]}, data, host)

    def json_request(self, host: str = "localhost") -> bytes:
        """The same in JSON alone, for servers without binary tensors over HTTP."""
        given = {"name": "x", "shape": self.shape, "datatype": "FP32", "data": self.sample().ravel().tolist()}
        return self.post({"inputs": [given], "outputs": [{"name": "y"}]}, None, host)

    def post(self, document: dict[str, Any], data: bytes | None = b"", host: str = "localhost") -> bytes:
        """An HTTP request for ``document``, which ``data`` follows unless it is None: then there is only JSON."""
        text = json.dumps(document, separators=(",", ":")).encode()
        kind = f"octet-stream\r\nInference-Header-Content-Length: {len(text)}" if data is not None else "json"
        head = (
            f"POST /v2/models/{self.name}/infer HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/{kind}\r\n"
            f"Content-Length: {len(text) + len(data or b'')}\r\n\r\n"
        )
        return head.encode() + text + (data or b"")


WANTED = {"name": "y", "parameters": {"binary_data": True}}


def tiny(folder: Path, name: str = "tiny") -> Model:
    net = _Net((1, 3072))
    return net.save(folder, name, net.dense("x", 3072, 100), 100)


def resnet8(folder: Path) -> Model:
    """Convolutions 3 → 16; 16 → 16; 16 → 32 and 32 → 64 with stride 2, three stacks with a shortcut; 10 classes."""
    net = _Net((1, 3, 32, 32))
    last, channels = net.conv("x", (16, 3, 3, 3)), 16
    for into, stride in ((16, 1), (32, 2), (64, 2)):
        inner = net.conv(last, (into, channels, 3, 3), stride)
        inner = net.conv(inner, (into, into, 3, 3), relu=False)
        if stride > 1:
            last = net.conv(last, (into, channels, 1, 1), stride, relu=False)
        last, channels = net.add("Relu", net.add("Add", inner, last)), into
    return net.save(folder, "resnet8", net.add("Softmax", net.classes(last, channels), axis=1), 10)


def big(folder: Path) -> Model:
    net = _Net((1, 3, 224, 224))
    return net.save(folder, "big", net.classes("x", 3), 10)


def slow(folder: Path) -> Model:
    """As deep as takes ~13 ms, found by trying two depths."""
    seconds = [_seconds(_deep(folder / f"trial{depth}", depth)) for depth in (2, 6)]
    layer = (seconds[1] - seconds[0]) / 4
    return _deep(folder, max(1, 2 + round((SLOW_S - seconds[0]) / layer)))


def raw_seconds(session: Any, sample: Array) -> float:
    """Wall time of one run in this process."""
    started = time.perf_counter()
    session.run(None, {"x": sample})
    return time.perf_counter() - started


def _deep(folder: Path, depth: int) -> Model:
    net = _Net((1, 3, 224, 224))
    last = net.conv(net.conv("x", (32, 3, 3, 3), 2), (64, 32, 3, 3), 2)
    for _ in range(depth):
        last = net.conv(last, (64, 64, 3, 3))
    return net.save(folder, "slow", net.classes(last, 64), 10)


def _seconds(model: Model) -> float:
    session, sample = load(model.file, threads=1), model.sample()
    return float(np.median([raw_seconds(session, sample) for _ in range(30)]))


@dataclass(slots=True)
class _Net:
    """A graph under construction, with random weights."""

    shape: tuple[int, ...]
    nodes: list[Any] = field(default_factory=list)
    weights: list[Any] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(SEED))

    def add(self, operator: str, *sources: str, **attributes: Any) -> str:
        """Append a node; the name of its output."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, sources, [name], **attributes))
        return name

    def conv(self, source: str, shape: tuple[int, int, int, int], stride: int = 1, relu: bool = True) -> str:
        """``shape``: output and input channels, height and width of the kernel; padded to the input's size."""
        weight = self._weight(shape, int(np.prod(shape[1:])))
        name = self.add("Conv", source, weight, strides=[stride] * 2, pads=[shape[2] // 2] * 4)
        return self.add("Relu", name) if relu else name

    def dense(self, source: str, inputs: int, outputs: int) -> str:
        return self.add("MatMul", source, self._weight((inputs, outputs), inputs))

    def classes(self, source: str, channels: int) -> str:
        return self.dense(self.add("Flatten", self.add("GlobalAveragePool", source)), channels, 10)

    def _weight(self, shape: Sequence[int], fan_in: int) -> str:
        name = f"w{len(self.weights)}"
        values = (self.rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def save(self, folder: Path, name: str, last: str, outputs: int) -> Model:
        """Write the folder, with golden vectors of the runtime itself."""
        folder.mkdir(parents=True, exist_ok=True)
        model = Model(name, folder, self.shape, outputs)
        self.nodes.append(helper.make_node("Identity", [last], ["y"]))
        tensors = (("x", self.shape), ("y", (1, outputs)))
        values = [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in tensors]
        graph = helper.make_graph(self.nodes, name, values[:1], values[1:], self.weights)
        opset = helper.make_opsetid("", 13)
        onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), str(model.file))
        session, samples = load(model.file, threads=1), self.rng.standard_normal((GOLDEN, *self.shape))
        np.save(folder / "x.npy", x := samples.astype(np.float32).reshape(GOLDEN, *self.shape[1:]))
        np.save(folder / "y.npy", np.concatenate([session.run(None, {"x": each[None]})[0] for each in x]))
        (folder / "model.toml").write_text(_MODEL_TOML.format(name=name, x=list(self.shape), y=[1, outputs]))
        return model


_MODEL_TOML = """\
name = "{name}"
version = "1.0.0"
description = "generated for the serving bench"
licence = "Apache-2.0"
[[inputs]]
name = "x"
dtype = "FP32"
shape = {x}
[[outputs]]
name = "y"
dtype = "FP32"
shape = {y}
[golden]
count = 2
inputs = {{ x = "x.npy" }}
[[variants]]
name = "fp32"
format = "onnx"
precision = "fp32"
devices = ["cpu"]
file = "model.onnx"
golden = {{ outputs = {{ y = "y.npy" }}, atol = 1e-3, rtol = 1e-3 }}
"""
