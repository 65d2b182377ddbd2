"""A model's answers to a data set, on this machine's CPU: by ONNX Runtime, LiteRT, or the overlay's golden model."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent.devices.cpu import BACKENDS, CpuDevice
from agent.errors import InferenceError, one_line
from agent.fleet.prepare.values import Array, Arrays, Dataset, Progress, no_progress
from agent.hal import ModelFile
from agent.types import TensorSpec

BATCH = 32
THREADS = min(4, os.cpu_count() or 1)


def answers(
    data: bytes,
    format: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    samples: Dataset,
    progress: Progress = no_progress,
    text: str = "running the model",
) -> dict[str, Array]:
    """Per output ``(n, *sample)``, each sample alone as a node runs it.

    Raises RuntimeUnavailable, ModelLoadError and InferenceError.
    """
    backend = next(name for name, each in BACKENDS.items() if format in each.formats)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model.{format}"
        path.write_bytes(data)
        session = CpuDevice().open(ModelFile(path, format, tuple(inputs), tuple(outputs)), backend)
        try:
            found: dict[str, list[Array]] = {spec.name: [] for spec in outputs}
            for index in range(samples.count):
                run = session.run({name: array[index, ...] for name, array in samples.inputs.items()})
                for name, array in run.outputs.items():
                    found[name].append(np.asarray(array))
                progress(text, (index + 1) / samples.count)
        finally:
            session.close()
    return {name: np.stack(arrays) for name, arrays in found.items()}


def exact_answers(
    model: bytes,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    samples: Dataset,
    exact: bool = True,
) -> dict[str, Array]:
    """Of an ONNX model, many samples at once where its batch is open.

    ``exact``: QuantizeLinear and DequantizeLinear as they stand, in float32, so that no processor's 16-bit sums
    saturate; otherwise with the quantised operators that this processor runs.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 4
    if exact:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    names = [spec.name for spec in outputs]
    step = BATCH if all(spec.dynamic for spec in (*inputs, *outputs)) else 1
    found: list[list[Array]] = []
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        for start in range(0, samples.count, step):
            found.append(session.run(names, batch(samples.inputs, inputs, start, start + step)))
    except Exception as error:  # the runtime's errors share no base class but Exception
        raise InferenceError(
            f"ONNX Runtime failed on {samples.origin}: {one_line(error)}; give --calibrate and --eval data as the "
            "model meets them, or export the model again"
        ) from error
    return {
        spec.name: np.concatenate([np.asarray(each[index]) for each in found]).reshape(
            samples.count, *spec.concrete()
        )
        for index, spec in enumerate(outputs)
    }


def batch(samples: Arrays, inputs: Sequence[TensorSpec], start: int, stop: int) -> dict[str, Any]:
    """Samples from ``start`` on as one input of a model with an open batch; or one sample."""
    return {
        spec.name: samples[spec.name][start:stop].reshape(-1, *spec.shape[1:])
        if spec.dynamic
        else samples[spec.name][start]
        for spec in inputs
    }
