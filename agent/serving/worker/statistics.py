"""What a worker counts, in the words of Triton's statistics extension."""

from __future__ import annotations

import time
from typing import Any

MAX_SIZES = 64  # batch sizes that are told apart: clients choose them


class Statistics:
    """Counts and sums of nanoseconds since the worker began. Adding to them is on every request's path."""

    def __init__(self) -> None:
        self.samples = self.executions = self.answered = self.failures = 0
        self._last_s = 0.0
        self._total_ns = self._queue_ns = self._input_ns = self._infer_ns = self._output_ns = (
            self._fail_ns
        ) = 0
        self._by_size: dict[int, list[int]] = {}  # samples: runs, ns of input, run and output

    def succeeded(self, samples: int, queue_ns: int, input_ns: int, infer_ns: int, output_ns: int) -> None:
        """A request was answered: it waited, was read, ran (alone or among others), and was written."""
        self.answered += 1
        self.samples += samples
        self._last_s = time.time()
        self._total_ns += queue_ns + input_ns + infer_ns + output_ns
        self._queue_ns += queue_ns
        self._input_ns += input_ns
        self._infer_ns += infer_ns
        self._output_ns += output_ns

    def failed(self, ns: int) -> None:
        """A well-formed request was refused, came too late, or its run failed after ``ns``."""
        self.failures += 1
        self._fail_ns += ns

    def executed(self, samples: int, input_ns: int, infer_ns: int, output_ns: int) -> None:
        """A run on so many samples, be they one request's or several."""
        self.executions += 1
        entry = self._by_size.get(samples)
        if entry is None:
            if len(self._by_size) == MAX_SIZES:
                return
            entry = self._by_size[samples] = [0, 0, 0, 0]
        entry[0] += 1
        entry[1] += input_ns
        entry[2] += infer_ns
        entry[3] += output_ns

    def entry(self, model: str, version: str) -> dict[str, Any]:
        """An element of Triton's ``model_stats``."""
        count = self.answered
        return {
            "name": model,
            "version": version,
            "last_inference": int(self._last_s * 1e3),
            "inference_count": self.samples,
            "execution_count": self.executions,
            "inference_stats": {
                "success": _pair(count, self._total_ns),
                "fail": _pair(self.failures, self._fail_ns),
                "queue": _pair(count, self._queue_ns),
                "compute_input": _pair(count, self._input_ns),
                "compute_infer": _pair(count, self._infer_ns),
                "compute_output": _pair(count, self._output_ns),
                "cache_hit": _pair(0, 0),
                "cache_miss": _pair(0, 0),
            },
            "response_stats": {},
            "batch_stats": [
                {
                    "batch_size": size,
                    "compute_input": _pair(runs, input_ns),
                    "compute_infer": _pair(runs, infer_ns),
                    "compute_output": _pair(runs, output_ns),
                }
                for size, (runs, input_ns, infer_ns, output_ns) in sorted(self._by_size.items())
            ],
            "memory_usage": [],
        }


def _pair(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}
