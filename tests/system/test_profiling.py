"""A candidate measured in a real worker process on a simulated board, with its meters."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from agent.devices.board import open_board
from agent.placement import profile
from agent.placement.profile import Profile
from agent.serving.pool import Pool
from agent.serving.processes.process import Worker
from agent.types import Candidate
from simulator.profile import load_profile
from tests.system.serving_models import make_spec

BOARD = "jetson-orin-nano"
GPU = Candidate("fp32", "onnxruntime", "gpu")
OVERHEAD_S = load_profile(BOARD).device("gpu").overhead_us / 1e6  # the model has next to no work


def on_a_worker(folder: Path, seconds: float, rate_hz: float) -> tuple[Profile, Worker, list[float]]:
    """Its profile, and the latencies of 40 requests a second for half a second."""

    async def run() -> tuple[Profile, Worker, list[float]]:
        meters = open_board(f"sim:{BOARD}", folder).meters()
        pool = Pool(folder, lambda _: None)
        spec = replace(
            make_spec(folder, "double", 2.0), board=f"sim:{BOARD}", board_folder=folder, candidate=GPU, memory_mb=0
        )  # fmt: skip
        try:
            rest_w = await profile.idle_watts(meters, seconds * profile.IDLE_SHARE)
            with profile.watching(meters, time.monotonic) as loading:
                worker = await pool.start(spec)
                await worker.check()
            found = await profile.measure(
                GPU, None, worker, meters, seconds, rest_w, rate_hz=rate_hz, loading=loading.bracket()
            )
            latencies = await worker.open_loop(0.5, 40.0, 3)
        finally:
            await pool.close()
        return found, worker, latencies

    return asyncio.run(asyncio.wait_for(run(), 60))


def test_a_candidate_is_measured_in_a_worker(tmp_path: Path) -> None:
    found, worker, latencies = on_a_worker(tmp_path, 1.0, 20.0)
    closed = found.closed
    assert closed.runs > 50
    assert closed.p50_ms == pytest.approx(OVERHEAD_S * 1e3, rel=0.2)
    assert closed.memory_mb > 1 and closed.load_s > load_profile(BOARD).device("gpu").load_s
    assert found.open is not None and found.open.runs >= 1
    assert found.open.p99_ms == pytest.approx(OVERHEAD_S * 1e3, rel=0.5)
    assert (worker.parts, closed.parts) == ({}, ())
    assert closed.energy in ("simulated", "missing")  # a busy machine may read the meters too seldom
    if closed.energy == "simulated":
        active_w = load_profile(BOARD).device("gpu").active_w
        assert closed.joules == pytest.approx(active_w * closed.mean_ms / 1e3, rel=0.5)
        assert closed.load_j is not None and closed.load_j > 0.5
    assert 8 <= len(latencies) <= 32 and min(latencies) > OVERHEAD_S / 2


def test_a_rate_without_gaps_is_not_tried(tmp_path: Path) -> None:
    found, _, _ = on_a_worker(tmp_path, 0.3, 1e5)
    assert found.open is None and found.measurement.open_p99_ms is None
