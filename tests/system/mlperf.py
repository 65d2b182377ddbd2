"""The MLPerf Tiny reference models as model folders (never committed; see OVERLAID_MLPERF_TINY)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("OVERLAID_MLPERF_TINY", ROOT / "../shared/data/mlperf-tiny"))
MODELS = {
    "resnet8-int8": "pretrainedResnet_quant.tflite",
    "resnet8": "pretrainedResnet.tflite",
    "dscnn-int8": "kws_ref_model.tflite",
    "dscnn": "kws_ref_model_float32.tflite",
    "vww-int8": "vww_96_int8.tflite",
    "vww": "vww_96_float.tflite",
    "autoencoder-int8": "ad01_int8.tflite",
    "autoencoder": "ad01_fp32.tflite",
}
DTYPES = {"float32": "FP32", "int8": "INT8", "uint8": "UINT8"}


def reason_to_skip() -> str | None:
    """Why the models cannot be used here, None when they can."""
    missing = [file for file in MODELS.values() if not (FOLDER / file).is_file()]
    return f"{FOLDER} lacks {missing[0]}; set OVERLAID_MLPERF_TINY" if missing else None


class Reference:
    """LiteRT called directly, one thread: what the node's answers must equal bit for bit."""

    def __init__(self, file: str) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.path = FOLDER / file
        self._interpreter = Interpreter(model_path=str(self.path), num_threads=1)
        self._interpreter.allocate_tensors()
        self.input: dict[str, Any] = self._interpreter.get_input_details()[0]
        self.output: dict[str, Any] = self._interpreter.get_output_details()[0]

    def run(self, value: NDArray[Any]) -> NDArray[Any]:
        self._interpreter.set_tensor(self.input["index"], value)
        self._interpreter.invoke()
        return np.array(self._interpreter.get_tensor(self.output["index"]))

    def random_input(self, rng: np.random.Generator) -> NDArray[Any]:
        shape, dtype = self.input["shape"], self.input["dtype"]
        if dtype == np.int8:
            return np.asarray(rng.integers(-128, 128, shape), np.int8)
        return np.asarray(rng.random(shape), np.float32)


def real_inputs(name: str) -> list[NDArray[Any]]:
    """The recorded inputs that come with the models: an utterance, a machine's sound."""
    if name == "dscnn-int8":
        return [np.load(FOLDER / "kws_inputs.npy").reshape(1, 49, 10, 1)]
    if name == "autoencoder":
        frames = np.fromfile(FOLDER / "ad01_normal_id_01_00000000_hist_librosa.bin", "<f4").reshape(-1, 128)
        return [frames[start : start + 5].reshape(1, 640) for start in (0, 50, 100)]
    return []


def make_folder(folder: Path, name: str) -> Path:
    """A model folder of one MLPerf Tiny model with golden vectors from LiteRT."""
    reference = Reference(MODELS[name])
    folder.mkdir(parents=True)
    (folder / "model.tflite").write_bytes(reference.path.read_bytes())
    rng = np.random.default_rng(1)
    x = [reference.random_input(rng) for _ in range(2)]
    np.save(folder / "x.npy", np.concatenate(x))
    np.save(folder / "y.npy", np.concatenate([reference.run(value) for value in x]))
    precision = "int8" if name.endswith("int8") else "fp32"
    (folder / "model.toml").write_text(
        f'name = "{name}"\nversion = "1.0.0"\ndescription = "MLPerf Tiny"\nlicence = "Apache-2.0"\n'
        + _tensor("inputs", reference.input)
        + _tensor("outputs", reference.output)
        + f'[golden]\ncount = 2\ninputs = {{ "{reference.input["name"]}" = "x.npy" }}\n'
        f'[[variants]]\nname = "{precision}"\nformat = "tflite"\nprecision = "{precision}"\ndevices = ["cpu"]\n'
        'file = "model.tflite"\n'
        f'golden = {{ outputs = {{ "{reference.output["name"]}" = "y.npy" }}, atol = 0.0, rtol = 0.0 }}\n'
    )
    return folder


def _tensor(table: str, details: dict[str, Any]) -> str:
    dtype = DTYPES[np.dtype(details["dtype"]).name]
    shape = [int(size) for size in details["shape"]]
    return f'[[{table}]]\nname = "{details["name"]}"\ndtype = "{dtype}"\nshape = {shape}\n'
