"""Train the digits model, quantise it, and write every file of this folder but README.md and this script.

    python models/digits/train.py [--out DIR]

Needs torch==2.13.0 (a CPU build), scikit-learn, numpy, onnx and onnxruntime. torch and scikit-learn serve
this script alone and stay outside the project's lock. Well under a minute on one core.

Seeds are fixed and everything runs on one thread, so two runs on one machine with the same package versions
write the same bytes. Another CPU may round the training's floating-point sums differently and end at other
weights.

The split, the training recipe and the seed were fixed beforehand. The test set measures the result; it picks
nothing.

Data: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository,
1998, https://doi.org/10.24432/C50P49, CC BY 4.0, as bundled with scikit-learn; scaled from 0..16 to 0..1.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn import functional

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Parameters = dict[str, torch.Tensor]

SEED = 1998
CLASSES = 10
EPOCHS = 40
BATCH = 64
PEAK_LEARNING_RATE = 3e-3
GOLDEN_COUNT = 16
CALIBRATION_COUNT = 256
OUTPUT_STEPS = 4  # tolerance of the INT8 golden logits, in steps of their quantisation scale

# (name, input channels, output channels) of the 3x3 convolutions; `head` sees 2x2 pixels of the last one.
CONVOLUTIONS = (("stem", 1, 32), ("residual", 32, 32), ("widen", 32, 64), ("top", 64, 128))
HEAD_INPUTS = 128 * 2 * 2

MODEL_TOML = """\
name = "digits"
version = "1.0.0"
description = "Handwritten digits, 8x8 grey pixels in 0..1, to ten logits: a small CNN"
# The weights. The data set, of which test.npz and golden/image.npy hold a part (scaled to 0..1), is
# "Optical Recognition of Handwritten Digits", E. Alpaydin and C. Kaynak, UCI Machine Learning Repository,
# https://doi.org/10.24432/C50P49, CC BY 4.0, as bundled with scikit-learn.
licence = "Apache-2.0"

[[inputs]]
name = "image"
dtype = "FP32"
shape = [-1, 1, 8, 8]         # -1: any batch size

[[outputs]]
name = "logits"
dtype = "FP32"
shape = [-1, 10]

[golden]
count = {golden_count}
inputs = {{ image = "golden/image.npy" }}

[[variants]]
name = "fp32"
format = "onnx"
precision = "fp32"
devices = ["cpu", "gpu"]
accuracy = {fp32_accuracy:.4f}             # measured, on test.npz
file = "digits-fp32.onnx"
golden = {{ outputs = {{ logits = "golden/fp32/logits.npy" }}, atol = 1e-3, rtol = 1e-3 }}

[[variants]]
name = "int8"
format = "onnx"
precision = "int8"
devices = ["cpu", "fpga"]
accuracy = {int8_accuracy:.4f}             # measured, on test.npz
file = "digits-int8.onnx"
# atol: {steps} steps of the output's quantisation scale, {scale:.6f}, rounded up: room for runtimes that
# round ties differently. The weights keep to 7 bits, so U8S8 sums do not saturate without VNNI.
golden = {{ outputs = {{ logits = "golden/int8/logits.npy" }}, atol = {atol:.2f}, rtol = 0.0 }}
"""


@dataclass(frozen=True, slots=True)
class Split:
    """Images [n,1,8,8] in 0..1 with their labels [n], for training and for the test."""

    train_images: Floats
    train_labels: Labels
    test_images: Floats
    test_labels: Labels


def load_split() -> Split:
    """scikit-learn's 1,797 digits; a quarter of each class is held out."""
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    labels = digits.target.astype(np.int64)
    train, test = train_test_split(np.arange(len(labels)), test_size=0.25, stratify=labels, random_state=SEED)
    return Split(images[train], labels[train], images[test], labels[test])


def make_deterministic() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)


def initial_parameters() -> Parameters:
    """He initialisation: weights [out,in,3,3] or [out,in], biases zero."""
    parameters: Parameters = {}
    for name, inputs, outputs in CONVOLUTIONS:
        parameters[f"{name}.weight"] = torch.randn(outputs, inputs, 3, 3) * math.sqrt(2 / (9 * inputs))
        parameters[f"{name}.bias"] = torch.zeros(outputs)
    parameters["head.weight"] = torch.randn(CLASSES, HEAD_INPUTS) * math.sqrt(1 / HEAD_INPUTS)
    parameters["head.bias"] = torch.zeros(CLASSES)
    for tensor in parameters.values():
        tensor.requires_grad_(True)
    return parameters


def forward(parameters: Parameters, images: torch.Tensor, dropout: float = 0.0) -> torch.Tensor:
    """Logits [n,10] of images [n,1,8,8]. `build_graph` writes the same network as ONNX."""

    def convolve(name: str, x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(x, parameters[f"{name}.weight"], parameters[f"{name}.bias"], padding=1)

    x = functional.relu(convolve("stem", images))
    x = functional.relu(convolve("residual", x) + x)
    x = functional.max_pool2d(x, 2)
    x = functional.relu(convolve("widen", x))
    x = functional.relu(convolve("top", x))
    x = functional.max_pool2d(x, 2).flatten(1)
    x = functional.dropout(x, dropout, training=dropout > 0)
    return functional.linear(x, parameters["head.weight"], parameters["head.bias"])


def jitter(images: torch.Tensor) -> torch.Tensor:
    """Each image turned by up to 12 degrees, scaled by up to 10 % and moved by up to half a pixel."""
    count = len(images)
    angle = (torch.rand(count) * 2 - 1) * math.radians(12)
    scale = 1 + (torch.rand(count) * 2 - 1) * 0.1
    shift = (torch.rand(count, 2) * 2 - 1) / 8  # the 8 pixels span -1..1: half of one is 1/8
    cos, sin = scale * torch.cos(angle), scale * torch.sin(angle)
    rows = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], dim=1).reshape(count, 2, 3)
    grid = functional.affine_grid(rows, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def train(split: Split) -> Parameters:
    """AdamW on a one-cycle schedule; label smoothing keeps the logits, hence their INT8 step, small."""
    images, labels = torch.from_numpy(split.train_images), torch.from_numpy(split.train_labels)
    parameters = initial_parameters()
    optimiser = torch.optim.AdamW(list(parameters.values()), weight_decay=1e-2)
    steps = EPOCHS * math.ceil(len(images) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=PEAK_LEARNING_RATE, total_steps=steps)
    for epoch in range(1, EPOCHS + 1):
        total = 0.0
        for chosen in torch.randperm(len(images)).split(BATCH):
            logits = forward(parameters, jitter(images[chosen]), dropout=0.3)
            loss = functional.cross_entropy(logits, labels[chosen], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * len(chosen)
        if epoch % 5 == 0:
            print(f"epoch {epoch:3d}/{EPOCHS}  training loss {total / len(images):.4f}", flush=True)
    return parameters


def build_graph(parameters: Parameters) -> onnx.ModelProto:
    """The network of `forward` as ONNX, opset 17: image [N,1,8,8] to logits [N,10], FP32."""

    def convolution(name: str, source: str) -> onnx.NodeProto:
        arrays = [source, f"{name}.weight", f"{name}.bias"]
        return helper.make_node("Conv", arrays, [name], name=name, kernel_shape=[3, 3], pads=[1, 1, 1, 1])

    def unary(kind: str, source: str, target: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(kind, [source], [target], name=target, **attributes)

    nodes = [
        convolution("stem", "image"),
        unary("Relu", "stem", "stem_relu"),
        convolution("residual", "stem_relu"),
        helper.make_node("Add", ["residual", "stem_relu"], ["sum"], name="sum"),
        unary("Relu", "sum", "sum_relu"),
        unary("MaxPool", "sum_relu", "sum_pool", kernel_shape=[2, 2], strides=[2, 2]),
        convolution("widen", "sum_pool"),
        unary("Relu", "widen", "widen_relu"),
        convolution("top", "widen_relu"),
        unary("Relu", "top", "top_relu"),
        unary("MaxPool", "top_relu", "top_pool", kernel_shape=[2, 2], strides=[2, 2]),
        unary("Flatten", "top_pool", "features", axis=1),
        helper.make_node("Gemm", ["features", "head.weight", "head.bias"], ["logits"], name="head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(tensor.detach().numpy(), name) for name, tensor in parameters.items()],
    )
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8, producer_name="digits/train.py")
    onnx.checker.check_model(model, full_check=True)
    return model


class Calibration(CalibrationDataReader):  # type: ignore[misc, unused-ignore]  # untyped where stubs are skipped
    """Feeds the images to the quantiser as one batch."""

    def __init__(self, images: Floats) -> None:
        self._batches: Iterator[dict[str, Floats]] = iter([{"image": images}])

    def get_next(self) -> dict[str, Floats] | None:
        return next(self._batches, None)


def quantise(source: Path, target: Path, images: Floats) -> None:
    """INT8 by min-max calibration: U8 activations, S8 weights per output channel, QDQ nodes.

    onnxruntime advises quant_pre_process; this graph holds no batch norm and no constants for it to fold.
    """
    quantize_static(
        source,
        target,
        Calibration(images),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        # Weights in -64..64: x86 without VNNI adds pairs of U8S8 products in 16 bits; 2*255*64 still fits.
        reduce_range=True,
    )


def output_scale(model: onnx.ModelProto) -> float:
    """The step between two neighbouring values of the quantised logits."""
    last = next(node for node in model.graph.node if "logits" in node.output)
    scale = next(array for array in model.graph.initializer if array.name == last.input[1])
    return float(numpy_helper.to_array(scale))


def infer(model: Path, images: Floats) -> Floats:
    """Logits [n,10] as onnxruntime computes them on one CPU thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"image": images})[0], dtype=np.float32)


def golden_rows(labels: Labels) -> npt.NDArray[np.int64]:
    """The first row of every class and the first rows left over, in ascending order: [16]."""
    firsts = np.array([np.flatnonzero(labels == digit)[0] for digit in range(CLASSES)], dtype=np.int64)
    others = np.setdiff1d(np.arange(len(labels), dtype=np.int64), firsts)
    return np.sort(np.concatenate([firsts, others[: GOLDEN_COUNT - CLASSES]]))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and quantise the digits model.")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="where to write")
    out: Path = parser.parse_args().out
    for variant in ("fp32", "int8"):
        (out / "golden" / variant).mkdir(parents=True, exist_ok=True)
    started = time.monotonic()

    make_deterministic()
    split = load_split()
    parameters = train(split)

    files = {variant: out / f"digits-{variant}.onnx" for variant in ("fp32", "int8")}
    onnx.save(build_graph(parameters), files["fp32"])
    quantise(files["fp32"], files["int8"], split.train_images)

    some = slice(CALIBRATION_COUNT)
    np.savez_compressed(
        out / "calibrate.npz", images=split.train_images[some], labels=split.train_labels[some]
    )  # for overlaid fleet prepare
    np.savez_compressed(out / "test.npz", images=split.test_images, labels=split.test_labels)
    (out / "seven.raw").write_bytes(
        split.test_images[0].astype("<f4").tobytes()
    )  # for docs/mqtt-inference.md
    golden = split.test_images[golden_rows(split.test_labels)]
    np.save(out / "golden" / "image.npy", golden)
    accuracy: dict[str, float] = {}
    for variant, file in files.items():
        np.save(out / "golden" / variant / "logits.npy", infer(file, golden))
        predicted = infer(file, split.test_images).argmax(axis=1)
        accuracy[variant] = float((predicted == split.test_labels).mean())

    scale = output_scale(onnx.load(files["int8"]))
    text = MODEL_TOML.format(
        golden_count=GOLDEN_COUNT,
        fp32_accuracy=accuracy["fp32"],
        int8_accuracy=accuracy["int8"],
        steps=OUTPUT_STEPS,
        scale=scale,
        atol=math.ceil(OUTPUT_STEPS * scale * 100) / 100,
    )
    (out / "model.toml").write_text(text, encoding="utf-8")

    count = sum(tensor.numel() for tensor in parameters.values())
    sizes = f"{len(split.train_labels)} training and {len(split.test_labels)} test images"
    print(f"\n{count:,} parameters; {sizes}")
    print("variant  test accuracy    bytes")
    for variant, file in files.items():
        print(f"{variant:7}  {accuracy[variant]:13.2%}  {file.stat().st_size:7,}")
    ratio = files["fp32"].stat().st_size / files["int8"].stat().st_size
    print(f"int8 file {ratio:.2f}x smaller; output scale {scale:.6f}; {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
