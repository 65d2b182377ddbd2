"""An outcome as one JSON document; the same seed gives the same, but for ``speed``."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from agent.types import to_jsonable
from simulator.scenario.record import Served, percentile_ms
from simulator.scenario.run import ModelOutcome, Outcome

MAX_REQUEST_BINS = 150
NOTE = "no model was computed: the board, its requests and their times, power and heat are modelled"


def summarise(outcome: Outcome, clock: str) -> dict[str, Any]:
    """``clock``: event or real. Times in s since the start, watts and temperatures as their names say."""
    scenario, board, profile = outcome.scenario, outcome.board, outcome.cell.profile
    joules = board.base_j + sum(board.device_j)
    answered = sum(
        sum(_counts(served).values()) for m in outcome.models for served in m.record.served.values()
    )
    return {
        "note": NOTE,
        "board": scenario.board,
        "seed": scenario.seed,
        "duration_s": scenario.duration_s,
        "clock": clock,
        "models": [_model(model) for model in outcome.models],
        "decisions": [to_jsonable(decision) for decision in outcome.decisions],
        "switches": sum(d.old is not None and d.old != d.new for d in outcome.decisions),
        "power": {
            "joules": joules,
            "mean_w": joules / scenario.duration_s,
            "peak_w": board.peak_w,
            "over_cap_s": board.over_cap_s,
            "joules_per_answer": joules / answered if answered else None,
            "joules_by_part": {
                "base": board.base_j,
                **{device.id: board.device_j[i] for i, device in enumerate(profile.devices)},
            },
        },
        "heat": {
            "highest_c": {zone.name: board.highest_c[i] for i, zone in enumerate(profile.zones)},
            "throttled_s": board.throttled_s,
        },
        "series": _series(outcome),
        "speed": {
            "wall_s": outcome.wall_s,
            "hours_per_s": scenario.duration_s / 3600 / outcome.wall_s,
        },
    }


def _model(model: ModelOutcome) -> dict[str, Any]:
    record, budget = model.record, model.workload.budget
    served = {str(c): (c, s) for c, s in record.served.items()}
    rows = [_served(candidate, each) for _, (candidate, each) in sorted(served.items())]
    answered = sum(row["answered"] for row in rows)
    failed = record.failures.total()
    return {
        "name": model.workload.name,
        "version": model.workload.version,
        "budget": to_jsonable(budget),
        "refused": model.refused or None,
        "requests": record.requests,
        "answered": answered,
        "failed": failed,
        "failures": dict(sorted(record.failures.items())),
        "unfinished": record.requests - answered - failed,
        "within_budget": sum(s.within for _, s in served.values()) / record.requests
        if record.requests
        else None,
        "by_candidate": rows,
        "verdicts": to_jsonable(model.verdicts),
    }


def _served(candidate: Any, served: Served) -> dict[str, Any]:
    counts = _counts(served)
    answered = sum(counts.values())
    return {
        "candidate": to_jsonable(candidate),
        "answered": answered,
        "p50_ms": percentile_ms(counts, 0.5),
        "p99_ms": percentile_ms(counts, 0.99),
        "within_budget": served.within / answered,
        "joules_per_run": served.joules / answered,
    }


def _counts(served: Served) -> Counter[int]:
    counts: Counter[int] = Counter()
    for each in served.bins.values():
        counts.update(each)
    return counts


def _series(outcome: Outcome) -> dict[str, Any]:
    """What a plot shows: one value for every ``bin_s`` seconds, of requests for every ``request_bin_s``."""
    bins, profile = outcome.board.bins, outcome.cell.profile
    wide = math.ceil(len(bins) / MAX_REQUEST_BINS)
    return {
        "bin_s": outcome.bin_s,
        "request_bin_s": outcome.bin_s * wide,
        "watts": {
            "base": [b.base_j / b.seconds for b in bins],
            **{d.id: [b.device_j[i] / b.seconds for b in bins] for i, d in enumerate(profile.devices)},
        },
        "cap_w": [b.cap_w for b in bins],
        "celsius": {zone.name: [b.temp_c[i] for b in bins] for i, zone in enumerate(profile.zones)},
        "throttle_level": {zone.name: [b.level[i] for b in bins] for i, zone in enumerate(profile.zones)},
        "models": {model.workload.name: _model_series(model, len(bins), wide) for model in outcome.models},
    }


def _model_series(model: ModelOutcome, bins: int, wide: int) -> dict[str, list[Any]]:
    """``wide``: bins that are taken together, since few requests tell little of a 99th percentile."""
    merged: list[Counter[int]] = [Counter() for _ in range(math.ceil(bins / wide))]
    failed = [0] * len(merged)
    for served in model.record.served.values():
        for number, counts in served.bins.items():
            merged[number // wide].update(counts)
    for number, count in model.record.failed_bins.items():
        failed[number // wide] += count
    return {
        "answered": [each.total() for each in merged],
        "failed": failed,
        "p50_ms": [percentile_ms(each, 0.5) for each in merged],
        "p99_ms": [percentile_ms(each, 0.99) for each in merged],
    }
