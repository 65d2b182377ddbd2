"""The numbers of the overlay, defined once: every executor gives these bits.

``requantise`` is the formula of ONNX Runtime's QLinearConv, QLinearMatMul and QLinearGlobalAveragePool, in float32.
``add`` is in integers; ``add_constants`` finds the integers with which it equals ONNX Runtime's QLinearAdd.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from agent.overlay.graph import Int8

RATIO_BITS = 24
MAX_SHIFT = 24  # and at least 16: what the RTL shifts by (npu_requant.sv)
# Ratios of input scale to output scale; between these float64 holds every sum exactly.
MIN_RATIO, MAX_RATIO = 2.0**-12, 2.0**6
SEARCH = 3  # how far from their nearest integers the ratios are searched

Floats = NDArray[np.float32]
Wide = NDArray[np.int64]


def requantise(
    acc: NDArray[np.int32], scale: Floats | np.float32 | float, zero_point: int, low: int, high: int
) -> Int8:
    """clamp(rne(float32(acc) x scale) + zero_point), every step rounded to float32.

    ``scale``: one number, float32 ``[C]`` for ``acc`` of ``[C, ...]``, or anything of more dimensions that
    broadcasts against ``acc``.
    """
    factor = np.asarray(scale, np.float32)
    if factor.ndim == 1:
        factor = factor.reshape(-1, *[1] * (acc.ndim - 1))
    value = acc.astype(np.float32)
    value *= factor
    # Clamped before it is rounded: the bounds are whole numbers, so the result is the same, and nothing overflows.
    np.clip(value, np.float32(low - zero_point), np.float32(high - zero_point), out=value)
    np.rint(value, out=value)
    value += np.float32(zero_point)
    return value.astype(np.int8)


def add(a: Int8, b: Int8, ratio_a: int, ratio_b: int, offset: int, shift: int, low: int, high: int) -> Int8:
    """clamp(rne((a x ratio_a + b x ratio_b + offset) / 2^shift)) in integers (graph.Add); shapes that broadcast."""
    total = np.multiply(a, ratio_a, dtype=np.int64) + np.multiply(b, ratio_b, dtype=np.int64)
    total += offset
    if shift:
        # Half, less one when the whole part is even: a tie then stays below the next number.
        total += ((total >> shift) & 1) + ((1 << (shift - 1)) - 1)
        total >>= shift
    clamped: Wide = np.clip(total, low, high)
    return clamped.astype(np.int8)


def add_constants(
    scale_a: float, zp_a: int, scale_b: float, zp_b: int, scale_c: float, zp_c: int,
    low: int, high: int, *, unsigned: bool = False,
) -> tuple[int, int, int, int] | None:  # fmt: skip
    """(ratio_a, ratio_b, offset, shift) with which ``add`` equals ONNX Runtime for all 65,536 pairs.

    Zero points and bounds are those of the int8 values; ``unsigned`` says that the model holds the tensors as uint8
    (all of them more by 128), which float32 rounds otherwise. None when there are no such constants: float32 rounds
    some tie, or a number within an ulp of one, in a way that no sum of two products does.
    """
    ratio_a, ratio_b = (np.float32(scale) / np.float32(scale_c) for scale in (scale_a, scale_b))
    if not all(MIN_RATIO <= ratio < MAX_RATIO for ratio in (ratio_a, ratio_b)):
        return None
    zero = 128 if unsigned else 0
    table = _runtime_table(ratio_a, zp_a + zero, ratio_b, zp_b + zero, zp_c + zero, zero)
    wanted = np.clip(table, low, high).astype(np.int64)
    shift = min(RATIO_BITS - math.frexp(max(ratio_a, ratio_b))[1], MAX_SHIFT)
    return _fit(wanted, float(ratio_a), float(ratio_b), shift, low, high)


def _runtime_table(
    ratio_a: np.float32, zp_a: int, ratio_b: np.float32, zp_b: int, zp_c: int, zero: int
) -> Floats:
    """What ONNX Runtime's QLinearAdd gives for every (a, b) of int8, before saturation, less ``zero``.

    As on x86-64 with AVX2: fused multiply-adds throughout; the zero points' share is computed once.
    """
    values = np.arange(zero - 128, zero + 128).astype(np.float32)
    zeros = _fused(ratio_a, np.float32(zp_a), ratio_b * np.float32(zp_b))
    total = _fused(values[:, None], ratio_a, _fused(values, ratio_b, np.float32(zp_c) - zeros))
    return np.rint(total) - np.float32(zero)


def _fused(a: Floats | np.float32, b: np.float32, c: Floats | np.float32) -> Floats:
    """a x b + c, rounded once: float64 holds the sum exactly (MIN_RATIO, MAX_RATIO)."""
    total: Floats = np.asarray(np.multiply(a, b, dtype=np.float64) + c).astype(np.float32)
    return total


def _fit(
    wanted: Wide, ratio_a: float, ratio_b: float, shift: int, low: int, high: int
) -> tuple[int, int, int, int] | None:
    """Integers that give the table ``wanted`` [a, b]: ratios near the exact ones, whichever leave room for an offset.

    An offset is right when least <= offset + a x ratio_a + b x ratio_b <= most for every pair. The bounds exclude a
    tie beside an odd number; saturated pairs are bounded on one side.
    """
    near_a, near_b = (min(round(math.ldexp(ratio, shift)), 2**RATIO_BITS - 1) for ratio in (ratio_a, ratio_b))
    a, b = np.meshgrid(_BYTES, _BYTES, indexing="ij")
    exact = a * near_a + b * near_b
    odd, beyond = wanted & 1, np.int64(1 << 60)
    least = np.where(wanted > low, ((2 * wanted - 1) << (shift - 1)) + odd, -beyond) - exact
    most = np.where(wanted < high, ((2 * wanted + 1) << (shift - 1)) - odd, beyond) - exact
    # Other ratios move a pair's bounds by at most this; only pairs so close to the tightest can ever be tightest.
    reach = 4 * 128 * SEARCH
    close = (least >= least.max() - reach) | (most <= most.min() + reach)
    a, b, least, most = a[close], b[close], least[close], most[close]
    for step_a, step_b in _STEPS:
        moved = a * step_a + b * step_b
        first, last = int((least - moved).max()), int((most - moved).min())
        if first <= last and max(near_a + step_a, near_b + step_b) < 2**RATIO_BITS:
            return near_a + step_a, near_b + step_b, _middle(first, last), shift
    return None


def _middle(first: int, last: int) -> int:
    """Between both; the one that is a bound when the other is not (a table that is saturated everywhere)."""
    if first < -(1 << 50):
        return last if last < 1 << 50 else 0
    return (first + last) // 2 if last < 1 << 50 else first


_BYTES: Wide = np.arange(-128, 128, dtype=np.int64)
_STEPS = sorted(
    ((a, b) for a in range(-SEARCH, SEARCH + 1) for b in range(-SEARCH, SEARCH + 1)),
    key=lambda step: abs(step[0]) + abs(step[1]),
)
