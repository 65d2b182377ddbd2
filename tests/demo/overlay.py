"""The FPGA overlay without an FPGA: a model is compiled for it, and its functional model and its RTL answer alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.demo.show import say, show
from tests.system.stage import ROOT

MODEL = ROOT / "models" / "camera-digits"


def play(folder: Path) -> None:
    """SystemExit when the two answer differently."""
    say("compile a quantised model for the FPGA overlay, and see what each layer costs")
    program, image = folder / "camera-digits.npu", folder / "image.npy"
    show("overlay", "compile", str(MODEL / "camera-digits-int8.onnx"), "-o", str(program))
    show("overlay", "report", str(program))
    say("run it on the overlay's functional model and on its RTL (Verilator; the first run builds it)")
    with np.load(MODEL / "test.npz") as test:
        np.save(image, (test["images"][:1] / np.float32(255)).astype(np.float32).reshape(1, 1, 64, 64))
    answers = {}
    for executor in ("functional", "rtl"):
        answer = folder / f"{executor}.npy"
        show(
            "overlay", "run", str(program), "--input", str(image), "--output", str(answer), "--on", executor,
        )  # fmt: skip
        answers[executor] = np.load(answer)
    if answers["functional"].tobytes() != answers["rtl"].tobytes():
        raise SystemExit("demo: the RTL and the functional model answer differently")
    print(f"both say it is a {int(answers['rtl'].argmax())}, with the same bytes")
