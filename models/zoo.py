"""Build every model of the zoo by ``overlaid fleet prepare``: model folders for ``overlaid fleet pack``.

    python models/zoo.py [--out DIR] [--targets cpu,gpu,npu] [--boards LIST] [NAME ...]

digits and breast-cancer were trained by the scripts in their folders. ic, kws, vww and ad, the architectures of MLPerf
Tiny, have RANDOM weights: for measuring, not for use; their descriptions say so. Needs overlaid[fleet].
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from architectures import ARCHITECTURES

FOLDER = Path(__file__).resolve().parent
TRAINED = {
    "digits": "Handwritten digits, 8x8 grey pixels in 0..1, to ten logits: a small CNN",
    "breast-cancer": "Thirty features of cell nuclei to malignant or benign: three matrices; no medical device",
}
RANDOM = "MLPerf Tiny's architecture for {} with RANDOM weights: for measuring, its answers mean nothing"
TASKS = {
    "ic": "image classification (ResNet-8)",
    "kws": "keyword spotting (DS-CNN)",
    "vww": "visual wake words (MobileNetV1 0.25)",
    "ad": "anomaly detection (autoencoder)",
}
SAMPLES = 64


def main() -> int:
    names = [*TRAINED, *ARCHITECTURES]
    parser = argparse.ArgumentParser(description="Build the models of the zoo.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(names)}")
    parser.add_argument(
        "--out", type=Path, default=Path("zoo"), help="where to put the folders (default: zoo)"
    )
    parser.add_argument("--targets", default="cpu,gpu,npu")
    parser.add_argument("--boards", help="see overlaid fleet prepare --help")
    args = parser.parse_args()
    unknown = sorted(set(args.names) - set(names))
    if unknown:
        parser.error(f"there is no {unknown[0]!r}; names are {', '.join(names)}")
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.names or names:
        with tempfile.TemporaryDirectory() as folder:
            command = [*command_of(name, Path(folder)), "--name", name, "-o", str(args.out / name)]
            command += ["--targets", args.targets, "--licence", "Apache-2.0"]
            command += [] if args.boards is None else ["--boards", args.boards]
            start = [sys.executable, "-c", "from agent.cli import main; exit(main())"]
            done = subprocess.run([*start, *command], check=False)
        if done.returncode:
            return done.returncode
    return 0


def command_of(name: str, folder: Path) -> list[str]:
    """Model and data; those of an architecture are made in ``folder``."""
    if name in TRAINED:
        home, description = FOLDER / name, TRAINED[name]
        model, calibrate, test = home / f"{name}-fp32.onnx", home / "calibrate.npz", home / "test.npz"
    else:
        description = RANDOM.format(TASKS[name])
        model, calibrate, test = folder / f"{name}.onnx", folder / "calibrate.npz", folder / "test.npz"
        made = ARCHITECTURES[name]()
        onnx.save(made, model)
        shape = [size.dim_value for size in made.graph.input[0].type.tensor_type.shape.dim][1:]
        for seed, path in enumerate((calibrate, test)):
            np.savez(path, x=np.random.default_rng(seed).random((SAMPLES, *shape)).astype(np.float32))
    files = ["--calibrate", str(calibrate), "--eval", str(test)]
    return ["fleet", "prepare", str(model), *files, "--description", description]


if __name__ == "__main__":
    sys.exit(main())
