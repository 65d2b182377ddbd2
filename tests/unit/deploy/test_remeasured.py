"""What a bench makes of a placement."""

from __future__ import annotations

from dataclasses import replace

from agent.deploy.bench import remeasured
from agent.types import Budget, Candidate, Measurement, Placement, Verdict

CPU, GPU = Candidate("int8", "onnxruntime", "cpu"), Candidate("int8", "onnxruntime", "gpu")


def measurement(candidate: Candidate, **values: object) -> Measurement:
    known = {"joules": 0.003, "energy": "measured", "holding_w": 0.1, "joules_sigma": 0.001} | values
    return Measurement(candidate, 100, 2.0, 2.0, 3.0, 0.6, 0.1, 40.0, 0.9, **known)  # type: ignore[arg-type]


OLD = tuple(Verdict(at, at == CPU, "chosen", measurement(at)) for at in (CPU, GPU))
PLACEMENT = Placement("digits", "1.0.0", "ab" * 32, Budget(20, 10), CPU, "chosen", OLD, 1.0)


def test_fresh_figures_take_the_place_of_those_before() -> None:
    fresh = measurement(CPU, joules=0.004)
    failed = [Verdict(GPU, False, "DeviceLost: gone")]
    now = remeasured(PLACEMENT, [fresh], failed)
    assert [verdict.measurement for verdict in now.verdicts] == [fresh, OLD[1].measurement]
    assert now.candidate == CPU and now.verdicts[0].chosen


def test_energy_that_a_busy_node_hides_is_that_of_before() -> None:
    blind = measurement(CPU, joules=None, energy="missing", holding_w=None, joules_sigma=None)
    quicker = replace(blind, p99_ms=2.5)
    [kept, _] = remeasured(PLACEMENT, [quicker], []).verdicts
    assert kept.measurement == replace(measurement(CPU), p99_ms=2.5)
