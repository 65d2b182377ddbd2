"""The range of every activation over the calibration data, found in three ways by onnxruntime.quantization."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.errors import DatasetError, one_line
from agent.fleet.prepare.executing import BATCH, batch
from agent.fleet.prepare.values import Dataset, Progress
from agent.types import TensorSpec

METHODS = ("minmax", "percentile", "entropy")
PERCENTILE = 99.99
# Percentile's default is a range around zero, which wastes half of the steps after a Relu.
OPTIONS: dict[str, dict[str, Any]] = {
    "minmax": {},
    "percentile": {"percentile": PERCENTILE, "symmetric": False},
    "entropy": {},
}


class Ranges:
    """``tensors``: onnxruntime's TensorsData. Names of tensors → their range."""

    def __init__(self, method: str, tensors: Any) -> None:
        self.method, self.tensors = method, tensors


def calibrate(
    model: bytes, inputs: Sequence[TensorSpec], data: Dataset, method: str, progress: Progress
) -> Ranges:
    """Raises DatasetError when the model does not run on the data."""
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    kinds = {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }
    # What onnxruntime prints about histograms would end up between a command's JSON.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        source = Path(folder) / "model.onnx"
        source.write_bytes(model)
        calibrator = create_calibrator(
            source, None, str(Path(folder) / "augmented.onnx"), kinds[method],
            providers=["CPUExecutionProvider"], extra_options=OPTIONS[method],
        )  # fmt: skip
        step = BATCH if all(spec.dynamic for spec in inputs) else 1
        try:
            for start in range(0, data.count, step):
                calibrator.collect_data(_Reader(batch(data.inputs, inputs, start, start + step)))
                calibrator.clear_collected_data()
                progress(f"calibrating by {method}", min(1.0, (start + step) / data.count))
            return Ranges(method, calibrator.compute_data())
        except Exception as error:  # the runtime's errors share no base class but Exception
            raise DatasetError(
                f"calibrating by {method} on {data.origin} failed ({one_line(error)[:200]}); give data as the model "
                "meets them"
            ) from error


class _Reader:
    """One batch, as onnxruntime's CalibrationDataReader gives it."""

    def __init__(self, feed: dict[str, Any]) -> None:
        self._feed: dict[str, Any] | None = feed

    def get_next(self) -> dict[str, Any] | None:
        feed, self._feed = self._feed, None
        return feed
