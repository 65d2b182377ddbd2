"""ONNX Runtime in this process: what every served answer is compared with."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


class Raw:
    """A loaded model on one thread, and the input that it runs on."""

    def __init__(self, file: Path, sample: Array) -> None:
        from agent.devices.onnx_cpu import load

        self._session = load(file, threads=1)
        self._inputs = {"x": sample}

    def run(self) -> Array:
        """Output ``y``."""
        found: Array = self._session.run(["y"], self._inputs)[0]
        return found

    def median_us(self, runs: int) -> float:
        """Wall time of a run."""
        return statistics.median(self._timed() for _ in range(runs)) * 1e6

    def _timed(self) -> float:
        started = time.perf_counter()
        self.run()
        return time.perf_counter() - started
