"""The last Snapshot as a file, for ``overlaid status`` while the daemon is down."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from agent.errors import ControlError, StoreError
from agent.types import Binding, BindingStatus, Delivery, ModelStatus, Snapshot, to_jsonable

MAX_BYTES = 4 << 20


def write(path: Path, snapshot: Snapshot) -> None:
    """Replace the file in one step; StoreError when the disk refuses.

    Not synced: it is written often, and after a power cut an older or unreadable snapshot does no harm.
    """
    fresh = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            fresh.write_text(json.dumps(to_jsonable(snapshot)), encoding="utf-8")
            fresh.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}; free space or mend paths.state") from error


def read(path: Path) -> dict[str, Any]:
    """The last snapshot as JSON values. ControlError when there is none or the file is not a whole snapshot."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ControlError(f"no snapshot at {path}: the daemon has not run here yet") from None
    except OSError as error:
        raise ControlError(f"cannot read the last snapshot {path}: {error.strerror}") from error
    try:
        if len(data) > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES} bytes")
        return check(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise ControlError(
            f"the last snapshot {path} is damaged ({str(error)[:120]}); the daemon makes a new one when it starts"
        ) from error


def check(value: Any) -> dict[str, Any]:
    """Return ``value`` when it has the shape of a Snapshot; ValueError otherwise. Keys of newer versions may follow."""
    snapshot = _keys(value, Snapshot, "snapshot")
    for key in ("time", "started"):
        if isinstance(snapshot[key], bool) or not isinstance(snapshot[key], (int, float)):
            raise ValueError(f"{key} is not a number")
    for key in ("models", "warnings", "bindings"):
        if not isinstance(snapshot[key], list):
            raise ValueError(f"{key} is not a list")
    for model in snapshot["models"]:
        _keys(model, ModelStatus, "model")
        if not isinstance(model["candidate"], (dict, type(None))):
            raise ValueError("candidate is not an object")
    _keys(snapshot["delivery"], Delivery, "delivery")
    for status in snapshot["bindings"]:
        _keys(_keys(status, BindingStatus, "binding")["binding"], Binding, "binding")
    return snapshot


def _keys(value: Any, kind: type[Any], what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is not an object")
    missing = [name for name in kind.__dataclass_fields__ if name not in value]
    if missing:
        raise ValueError(f"{what} lacks {', '.join(missing[:3])}")
    return value
