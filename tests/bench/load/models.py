"""Generated models of known cost, so that every machine measures the same layers; ``python -m`` writes them.

========= ===== =================================================
tiny      12 KB one matrix product, ~20 µs
resnet8   12 KB the layers of MLPerf Tiny's ResNet-8, 12.5 M MACs
big      602 KB a 224 x 224 image averaged, ~20 µs
slow     602 KB as many convolutions as take ~13 ms here
========= ===== =================================================
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.bench.load.raw import Raw

SEED = 8
SLOW_US = 13_000
GOLDEN = 2  # samples
SHAPES = {"tiny": (1, 3072), "resnet8": (1, 3, 32, 32), "big": (1, 3, 224, 224), "slow": (1, 3, 224, 224)}
OUTPUTS = {"tiny": 100, "resnet8": 10, "big": 10, "slow": 10}
WANTED = {"name": "y", "parameters": {"binary_data": True}}


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

    def sample(self) -> NDArray[np.float32]:
        """One input."""
        return np.random.default_rng(SEED).standard_normal(self.shape).astype(np.float32)

    def request(self) -> bytes:
        """An inference request with binary tensors both ways, as it goes over a connection."""
        data = self.sample().tobytes()
        given = self._input() | {"parameters": {"binary_data_size": len(data)}}
        return self.post({"inputs": [given], "outputs": [WANTED]}, data)

    def json_request(self) -> bytes:
        """The same in JSON alone, for servers without binary tensors over HTTP."""
        given = self._input() | {"data": self.sample().ravel().tolist()}
        return self.post({"inputs": [given], "outputs": [{"name": "y"}]}, None)

    def post(self, document: dict[str, Any], data: bytes | None = b"") -> bytes:
        """An HTTP request for ``document``, which ``data`` follows unless it is None: then there is only JSON."""
        text = json.dumps(document, separators=(",", ":")).encode()
        kind = "json" if data is None else f"octet-stream\r\nInference-Header-Content-Length: {len(text)}"
        head = (
            f"POST /v2/models/{self.name}/infer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/{kind}\r\n"
            f"Content-Length: {len(text) + len(data or b'')}\r\n\r\n"
        )
        return head.encode() + text + (data or b"")

    def copy(self, name: str) -> Model:
        """The same under another name."""
        folder = self.folder.with_name(name)
        shutil.copytree(self.folder, folder)
        toml = folder / "model.toml"
        toml.write_text(toml.read_text().replace(f'name = "{self.name}"', f'name = "{name}"', 1))
        return replace(self, name=name, folder=folder)

    def _input(self) -> dict[str, Any]:
        return {"name": "x", "shape": self.shape, "datatype": "FP32"}


def make(folder: Path) -> dict[str, Model]:
    """All of them, written by another process, which has no use for onnx and its memory afterwards."""
    subprocess.run([sys.executable, "-m", __name__, str(folder)], check=True)
    return {name: _model(folder, name) for name in SHAPES}


def _model(folder: Path, name: str) -> Model:
    return Model(name, folder / name, SHAPES[name], OUTPUTS[name])


def _tiny(folder: Path) -> None:
    net = _Net(_model(folder, "tiny"))
    net.save(net.dense("x", 3072, 100))


def _resnet8(folder: Path) -> None:
    """Convolutions 3 → 16; 16 → 16; 16 → 32 and 32 → 64 with stride 2, three stacks with a shortcut; 10 classes."""
    net = _Net(_model(folder, "resnet8"))
    last, channels = net.conv("x", (16, 3, 3, 3)), 16
    for into, stride in ((16, 1), (32, 2), (64, 2)):
        inner = net.conv(last, (into, channels, 3, 3), stride)
        inner = net.conv(inner, (into, into, 3, 3), relu=False)
        if stride > 1:
            last = net.conv(last, (into, channels, 1, 1), stride, relu=False)
        last, channels = net.add("Relu", net.add("Add", inner, last)), into
    net.save(net.add("Softmax", net.classes(last, channels), axis=1))


def _big(folder: Path) -> None:
    net = _Net(_model(folder, "big"))
    net.save(net.classes("x", 3))


def _slow(folder: Path) -> None:
    """As deep as takes ~13 ms, found by trying two depths."""
    few, more = (_deep(folder, depth) for depth in (2, 6))
    _deep(folder, max(1, 2 + round(4 * (SLOW_US - few) / (more - few))))


def _deep(folder: Path, depth: int) -> float:
    """The median time of a run in µs."""
    net = _Net(_model(folder, "slow"))
    last = net.conv(net.conv("x", (32, 3, 3, 3), 2), (64, 32, 3, 3), 2)
    for _ in range(depth):
        last = net.conv(last, (64, 64, 3, 3))
    net.save(net.classes(last, 64))
    return Raw(net.model.file, net.model.sample()).median_us(30)


@dataclass(slots=True)
class _Net:
    """A graph under construction, with random weights."""

    model: Model
    nodes: list[Any] = field(default_factory=list)
    weights: list[Any] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(SEED))

    def add(self, operator: str, *sources: str, **attributes: Any) -> str:
        """Append a node; the name of its output."""
        from onnx import helper

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

    def save(self, last: str) -> None:
        """Write the model's folder, with golden vectors of the runtime itself."""
        import onnx
        from onnx import TensorProto, helper

        model, folder = self.model, self.model.folder
        folder.mkdir(parents=True, exist_ok=True)
        tensors = (("x", model.shape), ("y", (1, model.outputs)))
        values = [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in tensors]
        self.nodes.append(helper.make_node("Identity", [last], ["y"]))
        graph = helper.make_graph(self.nodes, model.name, values[:1], values[1:], self.weights)
        opset = helper.make_opsetid("", 13)
        onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), str(model.file))
        x = self.rng.standard_normal((GOLDEN, *model.shape[1:])).astype(np.float32)
        y = np.concatenate([Raw(model.file, each[None]).run() for each in x])
        np.save(folder / "x.npy", x)
        np.save(folder / "y.npy", y)
        toml = _MODEL_TOML.format(name=model.name, x=list(model.shape), y=[1, model.outputs])
        (folder / "model.toml").write_text(toml)

    def _weight(self, shape: Sequence[int], fan_in: int) -> str:
        from onnx import numpy_helper

        name = f"w{len(self.weights)}"
        values = (self.rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name


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


if __name__ == "__main__":
    for write in (_tiny, _resnet8, _big, _slow):
        write(Path(sys.argv[1]))
