"""What a worker counts, as Triton words it."""

from __future__ import annotations

import itertools

from agent.serving.worker.statistics import MAX_SIZES, Statistics


def test_requests_samples_and_runs_are_counted_apart() -> None:
    statistics = Statistics()
    statistics.succeeded(2, 100, 10, 1000, 20)
    statistics.succeeded(1, 0, 5, 1000, 5)
    statistics.executed(3, 15, 1000, 25)
    statistics.failed(7)
    entry = statistics.entry("m", "1.0")
    assert (entry["name"], entry["version"]) == ("m", "1.0") and entry["last_inference"] > 1_700_000_000_000
    assert (entry["inference_count"], entry["execution_count"]) == (3, 1)
    assert entry["inference_stats"] == {
        "success": {"count": 2, "ns": 2140},
        "fail": {"count": 1, "ns": 7},
        "queue": {"count": 2, "ns": 100},
        "compute_input": {"count": 2, "ns": 15},
        "compute_infer": {"count": 2, "ns": 2000},
        "compute_output": {"count": 2, "ns": 25},
        "cache_hit": {"count": 0, "ns": 0},
        "cache_miss": {"count": 0, "ns": 0},
    }
    assert entry["batch_stats"] == [
        {
            "batch_size": 3,
            "compute_input": {"count": 1, "ns": 15},
            "compute_infer": {"count": 1, "ns": 1000},
            "compute_output": {"count": 1, "ns": 25},
        }
    ]


def test_before_the_first_request_everything_is_zero() -> None:
    entry = Statistics().entry("m", "1")
    counts = itertools.chain.from_iterable(pair.values() for pair in entry["inference_stats"].values())
    assert not any(counts) and entry["last_inference"] == 0 and entry["batch_stats"] == []


def test_clients_cannot_make_it_grow() -> None:
    statistics = Statistics()
    for size in range(1, 10_000):
        statistics.executed(size, 1, 1, 1)
    entry = statistics.entry("m", "1")
    assert len(entry["batch_stats"]) == MAX_SIZES and entry["execution_count"] == 9_999
