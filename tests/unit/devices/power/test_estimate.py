from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.devices.power.estimate import EstimateMeter
from agent.errors import MeterError
from tests.unit.devices.power.trees import Clock

TICK = st.integers(0, 10**6)


def show(stat: Path, *columns: int) -> None:
    stat.write_text(f"cpu  {' '.join(map(str, columns))} 0 0\ncpu0 1 2 3\nintr 5 6\n")


def test_between_idle_and_busy(tmp_path: Path) -> None:
    stat, clock = tmp_path / "stat", Clock()
    show(stat, 100, 0, 50, 10_000, 10, 0, 5, 0)
    meter = EstimateMeter(2.0, 6.0, stat, clock)
    assert (meter.rail, meter.tag, meter.joules()) == ("estimate", "estimated", 0.0)
    clock.time += 10.0
    show(stat, 100, 0, 50, 14_000, 10, 0, 5, 0)  # four cores, idle
    assert meter.joules() == pytest.approx(20.0)
    clock.time += 10.0
    show(stat, 900, 60, 150, 17_000, 10, 10, 20, 15)  # a quarter busy
    assert meter.joules() == pytest.approx(20.0 + 30.0)
    clock.time += 0.001
    assert meter.joules() == pytest.approx(50.0)  # no tick since


@given(st.lists(st.tuples(st.floats(-1, 100), st.tuples(*[TICK] * 8)), min_size=1, max_size=20))
def test_it_never_goes_back_and_stays_between(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, tuple[int, ...]]]
) -> None:
    stat, clock = tmp_path_factory.mktemp("proc") / "stat", Clock()
    meter, before, latest = EstimateMeter(2.0, 6.0, stat, clock), 0.0, 0.0
    for seconds, columns in rows:
        clock.time += seconds
        latest = max(latest, clock.time)
        show(stat, *columns)
        assert before <= meter.joules()
        before = meter.joules()
        assert before <= 6.0 * sum(max(seconds, 0.0) for seconds, _ in rows) + 1e-6


@pytest.mark.parametrize("text", ["", "cpu 1 2 3\n", "cpu a b c d e f g h\n", "intr 1 2 3 4 5 6 7 8\n", None])
def test_a_broken_file(tmp_path: Path, text: str | None) -> None:
    stat = tmp_path / "stat"
    if text is not None:
        stat.write_text(text)
    with pytest.raises(MeterError, match="stat: "):
        EstimateMeter(2.0, 6.0, stat, Clock()).joules()


def test_of_this_machine() -> None:
    clock = Clock()
    meter = EstimateMeter(2.0, 6.0, clock=clock)
    assert meter.joules() == 0.0
    while not meter.joules():
        clock.time += 1.0
    assert 2.0 <= meter.joules() / (clock.time - 50.0) <= 6.0
