"""Integers of JSON: 8.0 is one as well (JSON Schema Core, 4.2.3), true is none."""

from __future__ import annotations

from typing import Any


def whole(value: Any) -> int | None:
    """The integer that a JSON value is; None for anything else."""
    if type(value) is int:
        return value
    return int(value) if type(value) is float and value.is_integer() else None
