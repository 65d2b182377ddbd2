"""Do a variant's answers agree with its golden vectors? Imports numpy: for workers and the operator's side."""

from __future__ import annotations

import numpy as np

from agent.hal.device import Tensors


def compare(got: Tensors, want: Tensors, atol: float, rtol: float) -> str | None:
    """None when every output agrees (``|got - want| <= atol + rtol * |want|``; strings are equal), else which differs
    most and how."""
    for name, expected in want.items():
        actual = got[name]
        if actual.shape != expected.shape:
            return f"output {name!r} has shape {list(actual.shape)}, golden is {list(expected.shape)}"
        if expected.dtype == np.object_:
            different = int(np.count_nonzero(actual != expected))
            if different:
                return f"output {name!r}: {different} of {expected.size} strings differ"
            continue
        wide, target = actual.astype(np.float64), expected.astype(np.float64)
        allowed = atol + rtol * np.abs(target)
        with np.errstate(invalid="ignore"):
            error = np.abs(wide - target)
        # Exactly equal covers infinities and integers beyond 2**53; NaN agrees with NaN.
        wrong = ~((error <= allowed) | (actual == expected) | (np.isnan(wide) & np.isnan(target)))
        if wrong.any():
            excess = np.where(wrong, np.nan_to_num(error - allowed, nan=np.inf), -np.inf)
            worst = np.unravel_index(int(np.argmax(excess)), wrong.shape)
            return (
                f"output {name!r}: {int(wrong.sum())} of {wrong.size} values differ, worst at "
                f"{[int(index) for index in worst]}: got {wide[worst]:.6g}, golden {target[worst]:.6g}, "
                f"allowed difference {allowed[worst]:.3g}"
            )
    return None


def worst_difference(got: Tensors, want: Tensors) -> float:
    """The largest absolute difference over all outputs that agree; 0 for strings."""
    return max(
        float(np.max(np.abs(got[name].astype(np.float64) - expected.astype(np.float64)), initial=0.0))
        if expected.dtype != np.object_
        else 0.0
        for name, expected in want.items()
    )
