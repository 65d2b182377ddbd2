"""``/status.json``: the Snapshot of ``overlaid status --json``, and what moves beside it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from agent.serving.door.metrics import resident_bytes
from agent.serving.door.node import NodeState
from agent.serving.events import WorkerStatus
from agent.types import to_jsonable


def status_values(state: NodeState, workers: Mapping[str, WorkerStatus | None]) -> dict[str, Any]:
    """The keys of a Snapshot, ``rails``, ``power`` ([s ago, W], oldest first), and by model ``energy`` and ``live``."""
    now = state.snapshot
    return {
        **to_jsonable(now),
        "rails": to_jsonable(state.rails),
        "power": [[round(now.time - at, 1), round(watts, 3)] for at, watts in state.power],
        "energy": to_jsonable(dict(state.energy)),
        "live": {model: _live(status) for model, status in workers.items() if status is not None},
    }


def _live(status: WorkerStatus) -> dict[str, Any]:
    """``seconds``: [s ago, requests, failed ones, p50 ms, p99 ms] of seconds that brought requests, oldest first."""
    now = time.monotonic()
    return {
        "why": status.why,
        "waiting": status.waiting,
        "failures": dict(status.failures),
        "memory_mb": round(resident_bytes(status.pid) / 1e6, 1) if status.pid else 0.0,
        "seconds": [
            [round(now - s.at, 1), s.requests, s.errors, _rounded(s.p50_ms), _rounded(s.p99_ms)]
            for s in status.seconds
        ],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
