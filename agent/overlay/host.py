"""Host operators: what numpy computes beside the overlay, on arrays as the source model holds them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.errors import ProgramError
from agent.overlay.graph import Host

Array = NDArray[Any]
Attributes = Mapping[str, Any]
DTYPES = {
    "BOOL": np.bool_, "INT8": np.int8, "UINT8": np.uint8, "INT16": np.int16, "UINT16": np.uint16,
    "INT32": np.int32, "UINT32": np.uint32, "INT64": np.int64, "UINT64": np.uint64,
    "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip
SPARE_BITS = 5  # nats that QLinearSoftmax keeps clear of float32's end


def run_host(step: Host, inputs: Sequence[Array]) -> list[Array]:
    """The outputs of a host operator. Raises ProgramError for one that is unknown, or whose attributes do not fit."""
    operator = OPERATORS.get(step.op)
    if operator is None:
        raise ProgramError(f"host operator {step.op!r} is unknown here; update overlaid on this node")
    try:
        return [np.ascontiguousarray(operator(step.attributes, *inputs))]
    except (KeyError, TypeError, ValueError, IndexError, ArithmeticError) as error:
        raise ProgramError(
            f"host operator {step.op!r} cannot run: {error}; compile the model again"
        ) from error


def quantize(attributes: Attributes, x: Array) -> Array:
    """rne(x / scale) + zero_point, saturated; ``scale`` and ``zero_point``: lists, one number or along ``axis``.

    ``reciprocal``: rne(x x (1 / scale)) instead, as LiteRT computes it.
    """
    scale, zero_point = _parameters(attributes, x.ndim)
    dtype = DTYPES[attributes["dtype"]]
    info = np.iinfo(dtype)
    real = x.astype(np.float32)
    steps = np.rint(real * (np.float32(1) / scale) if attributes.get("reciprocal") else real / scale)
    # Rounded and bounded in float32 before the zero point is added, so that no number overflows.
    bounded = np.clip(np.nan_to_num(steps, nan=0.0), -(2.0**24), 2.0**24).astype(np.int64) + zero_point
    return np.asarray(np.clip(bounded, info.min, info.max), dtype)


def dequantize(attributes: Attributes, x: Array) -> Array:
    """float32((x - zero_point) x scale)."""
    scale, zero_point = _parameters(attributes, x.ndim)
    steps: Array = x.astype(np.int64) - zero_point
    return np.asarray(steps.astype(np.float32) * scale, np.float32)


def _parameters(attributes: Attributes, dimensions: int) -> tuple[Array, Array]:
    scale = np.asarray(attributes["scale"], np.float32)
    zero_point = np.asarray(attributes["zero_point"], np.int64)
    if scale.size == 1:
        return scale.reshape(()), zero_point.reshape(())
    shape = [1] * dimensions
    shape[attributes["axis"]] = scale.size
    return scale.reshape(shape), zero_point.reshape(shape)


def softmax(attributes: Attributes, x: Array) -> Array:
    """Along ``axis``, in float32."""
    axis = attributes["axis"]
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis=axis, keepdims=True), x.dtype)


def softmax_int8(attributes: Attributes, x: Array) -> Array:
    """TFLite's: int8 steps of ``scale`` x ``beta`` in, along the last axis; steps of 1/256 from -128 out."""
    logits = x.astype(np.float64) * (attributes["scale"] * attributes["beta"])
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares = powers / powers.sum(axis=-1, keepdims=True)
    return np.asarray(np.clip(np.rint(shares * 256), 0, 255) - 128, np.int8)


def qlinear_softmax(attributes: Attributes, x: Array) -> Array:
    """ONNX Runtime's QLinearSoftmax along ``axis``, bytes to bytes of the same type: steps of ``scale`` in, of
    ``output_scale`` from ``zero_point`` out.

    It looks float32 powers up in a table, which is scaled up so far that their sum just stays finite; all powers have
    that factor, so only their rounding knows of it. The output scale counts as 1 / floor(1 / output_scale).
    """
    bytes_ = np.moveaxis(x.astype(np.int64), attributes["axis"], -1)
    scale, info = float(attributes["scale"]), np.iinfo(x.dtype)
    largest = math.log(float(np.finfo(np.float32).max / np.float32(bytes_.shape[-1]))) - SPARE_BITS
    powers = np.exp((np.arange(-255, 1) + max(0.0, largest) / scale) * scale).astype(np.float32)
    found = powers[bytes_ - bytes_.max(axis=-1, keepdims=True) + 255]
    total = np.cumsum(found, axis=-1, dtype=np.float32)[..., -1:]  # one after the other, as there
    steps = np.rint(found * np.floor(np.float32(1) / np.float32(attributes["output_scale"])) / total)
    shares = np.clip(steps.astype(np.int64) + attributes["zero_point"], info.min, info.max)
    return np.moveaxis(shares.astype(x.dtype), -1, attributes["axis"])


def argmax(attributes: Attributes, x: Array) -> Array:
    """Along ``axis``; the first of equals, or the last when ``last``."""
    axis = attributes["axis"]
    last = x.shape[axis] - 1
    found = last - np.flip(x, axis).argmax(axis) if attributes.get("last") else x.argmax(axis)
    if attributes.get("keepdims"):
        found = np.expand_dims(found, axis)
    return np.asarray(found, DTYPES[attributes["dtype"]])


def reshape(attributes: Attributes, x: Array) -> Array:
    return x.reshape(tuple(attributes["shape"]))


def transpose(attributes: Attributes, x: Array) -> Array:
    return x.transpose(tuple(attributes["perm"]))


def cast(attributes: Attributes, x: Array) -> Array:
    return x.astype(DTYPES[attributes["dtype"]])


OPERATORS: Mapping[str, Callable[..., Array]] = {
    "quantize": quantize,
    "dequantize": dequantize,
    "softmax": softmax,
    "softmax_int8": softmax_int8,
    "qlinear_softmax": qlinear_softmax,
    "argmax": argmax,
    "reshape": reshape,
    "transpose": transpose,
    "cast": cast,
}
