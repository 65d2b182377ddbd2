"""The latency-energy front and its picture in a terminal."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.cli.front import HEIGHT, WIDTH, draw, front_of
from agent.types import Budget, Candidate, Measurement, Verdict, to_jsonable

times = st.floats(1e-3, 1e6)
energies = st.floats(-1.0, 1e3) | st.just(0.0)


def verdict(index: int, p99_ms: float, joules: float | None, holding_w: float | None = None) -> Verdict:
    at = Candidate(f"v{index}", "onnxruntime", "cpu")
    m = Measurement(at, 500, p99_ms, p99_ms, p99_ms, 0.99, 0.1, 1, None, joules, "measured", holding_w)
    return Verdict(at, False, "", m)


def bench(*verdicts: Verdict, rate_hz: float = 10.0, power_w: float | None = None, **more: Any) -> Any:
    return to_jsonable(
        {"verdicts": verdicts, "budget": Budget(20, rate_hz, power_w), "candidate": None, **more}
    )


@given(st.lists(st.tuples(times, energies), min_size=1, max_size=30), st.sampled_from([0.0, 3.0]))
def test_the_front_is_what_nothing_beats_and_the_picture_keeps_its_size(
    figures: list[tuple[float, float]], rate_hz: float
) -> None:
    verdicts = [verdict(i, p99_ms, joules) for i, (p99_ms, joules) in enumerate(figures)]
    front = front_of(bench(*verdicts, rate_hz=rate_hz, power_w=0.5))
    quickest, thriftiest = min(p for p, _ in figures), min(j for _, j in figures)
    best = [point for point in front.points if point.front]
    assert best[0].p99_ms == quickest and best[-1].energy_mj == thriftiest * 1e3
    assert all(a.energy_mj >= b.energy_mj for a, b in pairwise(best))
    lines = list(draw(front))
    picture = [line.partition("|")[2] for line in lines[1 : HEIGHT + 1]]
    assert max(map(len, picture)) <= WIDTH
    assert any(char.isupper() for line in picture for char in line)
    assert sum("p99" in line for line in lines[HEIGHT + 3 :]) == len(figures)


def test_holding_counts_by_the_rate_and_the_budgets_are_of_one_request() -> None:
    held = verdict(0, 1.0, 0.001, holding_w=0.2)
    front = front_of(bench(held, power_w=0.5, power_cap_w=5.0, rest_w=4.0))
    assert front.points[0].energy_mj == 21.0
    assert front.limits_mj == (("power budget", 50.0), ("node's cap", 100.0))
    assert front_of(bench(held, rate_hz=0.0, power_w=0.5)).points[0].energy_mj == 1.0
    assert front_of(bench(held, rate_hz=0.0, power_w=0.5)).limits_mj == ()
    assert front_of(bench(held, power_cap_w=4.0, rest_w=5.0)).limits_mj == ()  # nothing is left


def test_what_has_no_energy_figure_is_named() -> None:
    known, unknown = verdict(0, 1.0, 0.001), verdict(1, 2.0, None)
    unmeasured = replace(unknown, measurement=None)
    front = front_of(bench(known, unknown, unmeasured))
    assert front.without == ("v1 on cpu (onnxruntime)",) and len(front.points) == 1
    assert list(draw(front))[-1] == "  no energy figure, not drawn: v1 on cpu (onnxruntime)"
    assert front_of(bench(unknown)).points == ()
