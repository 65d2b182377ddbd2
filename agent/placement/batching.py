"""Whether one run should answer several requests. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from agent.placement.stats import median, p99_upper
from agent.types import Budget, Measurement, TensorSpec

MIN_GAIN = 1.2  # below, it only makes latencies uneven
BESIDE_S = 0.0001  # about what reading and answering each request takes beside its run
TIE = 0.05  # a larger batch must bring so much more than a smaller one


def worth_measuring(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], budget: Budget, alone: Measurement
) -> bool:
    """True when runs can be joined (every tensor's first dimension is free) and the budget leaves time for it."""
    free = bool(inputs) and bool(outputs) and all(spec.dynamic for spec in (*inputs, *outputs))
    return free and alone.p50_ms / 1e3 <= longest_s(budget)


def longest_s(budget: Budget) -> float:
    """Seconds that a run for several requests may take: who just misses one waits for it, and is then in the next."""
    return budget.latency_p99_ms / 1e3 / 2


def with_batches(alone: Measurement, times: Mapping[int, Sequence[float]], budget: Budget) -> Measurement:
    """``alone`` with the batch size that answers most requests in the same time, among those that gain at least
    MIN_GAIN and whose p99 is within ``longest_s``.

    ``times``: device seconds of runs by batch size.
    """
    if 1 not in times or len(times) < 2:
        return alone
    single_s = median(times[1]) + BESIDE_S
    gains = {
        size: size * single_s / (median(of_size) + size * BESIDE_S)
        for size, of_size in times.items()
        if size > 1
    }
    fitting = [
        size
        for size, gain in sorted(gains.items())
        if gain >= MIN_GAIN and p99_upper(times[size])[0] <= longest_s(budget)
    ]
    if not fitting:
        return replace(alone, batch_gain=max(gains.values()))
    most = max(gains[size] for size in fitting)
    size = next(size for size in fitting if gains[size] * (1 + TIE) >= most)
    return replace(alone, max_batch=size, batch_gain=gains[size])
