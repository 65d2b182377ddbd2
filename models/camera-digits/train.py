"""Train the camera-digits model, quantise it, and write every file of this folder but README.md and the scripts.

    python models/camera-digits/train.py [--out DIR]

Needs torch==2.13.0 (a CPU build), scikit-learn, numpy, onnx, onnxruntime and ai-edge-litert. torch and scikit-learn
serve these scripts alone and stay outside the project's lock. About six minutes on one core.

Seeds are fixed and everything runs on one thread, so two runs on one machine with the same package versions write the
same bytes. Another CPU may round the training's floating-point sums differently and end at other weights.

Epochs and learning rate were chosen on a fifth of the training digits. The test set measures the result; it picks
nothing.

Data: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998,
https://doi.org/10.24432/C50P49, CC BY 4.0, as bundled with scikit-learn; drawn into larger pictures by frames.py.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_files
import onnxruntime as ort
import tflite
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from frames import Labels, Split, load_split, render
from network import CLASSES, Floats, Folded, Network, activations
from torch.nn import functional

SEED = 1998
EPOCHS = 80
BATCH = 64
PEAK_LEARNING_RATE = 1.5e-2
CALIBRATION_COUNT = 512
TEST_COUNT = 200
GOLDEN_COUNT = 16
OUTPUT_STEPS = 4  # tolerance of the INT8 golden logits, in steps of their quantisation scale
FILES = {
    "fp32": "camera-digits-fp32.onnx",
    "int8": "camera-digits-int8.onnx",
    "int8-tflite": "camera-digits-int8.tflite",
}

MODEL_TOML = """\
name = "camera-digits"
version = "1.0.0"
description = "The handwritten digit in a 64x64 grey camera crop, pixels in 0..1, to ten logits: a ResNet-8"
# The weights. The data set, from which test.npz and golden/image.npy are drawn, is "Optical Recognition of
# Handwritten Digits", E. Alpaydin and C. Kaynak, UCI Machine Learning Repository,
# https://doi.org/10.24432/C50P49, CC BY 4.0, as bundled with scikit-learn.
licence = "Apache-2.0"

[[inputs]]
name = "image"
dtype = "FP32"
shape = [-1, 1, 64, 64]       # -1: any batch size

[[outputs]]
name = "logits"
dtype = "FP32"
shape = [-1, 10]

[golden]
count = {golden_count}
inputs = {{ image = "golden/image.npy" }}

# Accuracies: measured, on test.npz.
[[variants]]
name = "fp32"
format = "onnx"
precision = "fp32"
devices = ["cpu", "gpu"]
accuracy = {accuracy[fp32]:.4f}
file = "{files[fp32]}"
golden = {{ outputs = {{ logits = "golden/fp32/logits.npy" }}, atol = 1e-3, rtol = 1e-3 }}

# atol of both INT8 variants: {steps} steps of the output's quantisation scale ({scale[int8]:.6f} and
# {scale[int8-tflite]:.6f}), rounded up: room for runtimes that round ties differently, layer after layer.
[[variants]]
name = "int8"
format = "onnx"
precision = "int8"
devices = ["cpu", "gpu", "fpga"]
accuracy = {accuracy[int8]:.4f}
file = "{files[int8]}"
golden = {{ outputs = {{ logits = "golden/int8/logits.npy" }}, atol = {atol[int8]:.2f}, rtol = 0.0 }}

[[variants]]
name = "int8-tflite"
format = "tflite"
precision = "int8"
devices = ["cpu"]
accuracy = {accuracy[int8-tflite]:.4f}
file = "{files[int8-tflite]}"
golden = {{ outputs = {{ logits = "golden/int8-tflite/logits.npy" }}, atol = {atol[int8-tflite]:.2f}, rtol = 0.0 }}
"""


def make_deterministic() -> torch.Generator:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    return torch.Generator().manual_seed(SEED)


def train(split: Split, random: torch.Generator) -> Folded:
    """AdamW on a one-cycle schedule, every digit drawn anew in every epoch.

    Label smoothing keeps the logits, hence their INT8 step, small.
    """
    labels = torch.from_numpy(split.train_labels)
    network = Network()
    optimiser = torch.optim.AdamW(list(network.parameters.values()), weight_decay=1e-2)
    steps = EPOCHS * math.ceil(len(labels) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=PEAK_LEARNING_RATE, total_steps=steps)
    for epoch in range(1, EPOCHS + 1):
        total = 0.0
        for chosen in torch.randperm(len(labels), generator=random).split(BATCH):
            logits = network.logits(render(split.train_digits[chosen], random))
            loss = functional.cross_entropy(logits, labels[chosen], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * len(chosen)
        if epoch % 10 == 0:
            print(f"epoch {epoch:3d}/{EPOCHS}  training loss {total / len(labels):.4f}", flush=True)
    return network.folded()


def measured_ranges(folded: Folded, images: torch.Tensor) -> tflite.Ranges:
    """The smallest and largest value of the picture and of every layer's output."""
    ranges: dict[str, tuple[float, float]] = {}
    for batch in images.split(BATCH):
        for name, value in activations(folded, batch).items():
            low, high = ranges.get(name, (math.inf, -math.inf))
            ranges[name] = (min(low, float(value.min())), max(high, float(value.max())))
    return ranges


def infer_onnx(model: Path, images: Floats, optimised: bool = True) -> Floats:
    """Logits [n,10] by onnxruntime on one thread; not ``optimised``: in FP32 between the quantised tensors."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    parts = [session.run(["logits"], {"image": batch})[0] for batch in _batches(images)]
    return np.concatenate(parts).astype(np.float32)


def infer_tflite(model: Path, images: Floats, optimised: bool = True) -> Floats:
    """Logits [n,10] by LiteRT on one thread; not ``optimised``: by its reference kernels."""
    resolver = OpResolverType.AUTO if optimised else OpResolverType.BUILTIN_REF
    interpreter = Interpreter(str(model), num_threads=1, experimental_op_resolver_type=resolver)
    image = interpreter.get_input_details()[0]["index"]
    logits = interpreter.get_output_details()[0]["index"]
    parts = []
    for batch in _batches(images):
        interpreter.resize_tensor_input(image, batch.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(image, batch)
        interpreter.invoke()
        parts.append(interpreter.get_tensor(logits))
    return np.concatenate(parts).astype(np.float32)


def _batches(images: Floats) -> list[Floats]:
    return [images[start : start + BATCH] for start in range(0, len(images), BATCH)]


def runner(file: str) -> Callable[..., Floats]:
    return infer_tflite if file.endswith(".tflite") else infer_onnx


def golden_rows(labels: Labels) -> npt.NDArray[np.int64]:
    """The first row of every class and the first rows left over, in ascending order: [16]."""
    firsts = np.unique(labels, return_index=True)[1]
    others = np.setdiff1d(np.arange(len(labels)), firsts)
    return np.sort(np.concatenate([firsts, others[: GOLDEN_COUNT - CLASSES]])).astype(np.int64)


def write_models(folded: Folded, calibration: torch.Tensor, out: Path) -> dict[str, float]:
    """The three files; returns the output scales of the quantised ones."""
    ranges = measured_ranges(folded, calibration)
    onnx.save(onnx_files.build(folded), out / FILES["fp32"])
    onnx_files.quantise(out / FILES["fp32"], out / FILES["int8"], calibration.numpy())
    (out / FILES["int8-tflite"]).write_bytes(tflite.write(folded, ranges))
    return {
        "int8": onnx_files.output_scale(out / FILES["int8"]),
        "int8-tflite": tflite.output_scale(ranges),
    }


def write_test(split: Split, random: torch.Generator, out: Path) -> tuple[Floats, Labels]:
    """test.npz and golden/image.npy; returns the test's crops [200,1,64,64] and labels."""
    labels = split.test_labels[:TEST_COUNT]
    stored = np.rint(render(split.test_digits[:TEST_COUNT], random).numpy() * 255).astype(np.uint8)
    np.savez_compressed(out / "test.npz", images=stored, labels=labels)
    images = (stored / 255).astype(np.float32)
    np.save(out / "golden" / "image.npy", images[golden_rows(labels)])
    return images, labels


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and quantise the camera-digits model.")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="where to write")
    out: Path = parser.parse_args().out
    for variant in FILES:
        (out / "golden" / variant).mkdir(parents=True, exist_ok=True)
    started = time.monotonic()

    random = make_deterministic()
    split = load_split(SEED)
    folded = train(split, random)
    scales = write_models(folded, render(split.train_digits[:CALIBRATION_COUNT], random), out)
    images, labels = write_test(split, random, out)
    # Every held-out digit four times: a finer measure than test.npz, for README.md.
    wide_labels = np.tile(split.test_labels, 4)
    wide_images = render(split.test_digits.repeat(4, 1, 1, 1), random).numpy()

    count = sum(array.size for pair in folded.values() for array in pair)
    print(
        f"\n{count:,} parameters; {len(split.train_labels)} training and {len(split.test_labels)} held-out digits"
    )
    print(
        f"variant      test accuracy  on {len(wide_labels)} crops    bytes  worst difference of the slow kernels"
    )
    golden = images[golden_rows(labels)]
    accuracy: dict[str, float] = {}
    for variant, file in FILES.items():
        infer = runner(file)
        np.save(out / "golden" / variant / "logits.npy", infer(out / file, golden))
        accuracy[variant] = float((infer(out / file, images).argmax(axis=1) == labels).mean())
        wide = float((infer(out / file, wide_images).argmax(axis=1) == wide_labels).mean())
        worst = np.abs(infer(out / file, images, optimised=False) - infer(out / file, images)).max()
        steps = f" = {worst / scales[variant]:.1f} steps" if variant in scales else ""
        size = (out / file).stat().st_size
        print(
            f"{variant:11}  {accuracy[variant]:13.2%}  {wide:13.2%}  {size:7,}  {worst:.6f}{steps}",
            flush=True,
        )

    text = MODEL_TOML.format(
        golden_count=GOLDEN_COUNT,
        files=FILES,
        accuracy=accuracy,
        steps=OUTPUT_STEPS,
        scale=scales,
        atol={variant: math.ceil(OUTPUT_STEPS * scale * 100) / 100 for variant, scale in scales.items()},
    )
    (out / "model.toml").write_text(text, encoding="utf-8")
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
