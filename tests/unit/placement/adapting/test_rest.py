from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.placement.adapting.rest import MOST_W, Rest, bound_w, drawn_w, sensible
from tests.unit.placement.adapting.world import CPU, FAST, GPU, SLOW, measurement


def settled(watts: float = 3.0, scatter_w: float = 0.02, looks: int = 200) -> Rest:
    draw, rest = Random(2), Rest()
    for _ in range(looks):
        rest = rest.metered(watts + 1.0 + draw.gauss(0, scatter_w), 1.0)
    return rest


def test_it_is_what_is_drawn_less_what_models_draw() -> None:
    rest = settled()
    assert rest.watts == pytest.approx(3.0, abs=0.02) and rest.scatter_w == pytest.approx(0.02, rel=0.6)
    assert rest.sigma_w < rest.scatter_w / 2  # of the average


def test_a_guess_counts_until_a_meter_tells() -> None:
    guess = Rest().guessed(4.0, 0.2)
    assert guess.watts == 4.0 and guess.sigma_w == pytest.approx(0.2)
    assert settled().guessed(9.0, 0.0).watts == pytest.approx(3.0, abs=0.05)
    for nonsense in (None, math.nan, -1.0, math.inf, 2 * MOST_W):
        assert Rest().guessed(nonsense, 0.1).watts is None


@pytest.mark.parametrize("sigma_w", [math.nan, -1.0, math.inf, 1e300])
def test_a_guess_that_is_nonsensically_uncertain_is_a_guess(sigma_w: float) -> None:
    rest = Rest().guessed(3.0, sigma_w).metered(3.1, 0.0)
    assert rest.watts == pytest.approx(3.0, abs=0.2) and 0 <= rest.sigma_w < 1


def test_a_step_is_believed_the_second_time() -> None:
    once = settled().metered(4.5, 1.0)
    assert once.watts == pytest.approx(3.0, abs=0.02)
    twice = once.metered(4.5, 1.0)
    assert twice.watts == pytest.approx(3.5) and not twice.fell
    back = twice.metered(4.0, 1.0).metered(4.0, 1.0)
    assert back.watts == pytest.approx(3.0) and back.fell


def test_what_is_odd_is_believed_when_it_stays_odd() -> None:
    rest = settled()
    for looks in range(1, 20):
        rest = rest.metered(60.0, 1.0)
        assert (rest.watts == pytest.approx(59.0)) == (looks >= 10)


def test_without_a_meter_it_becomes_uncertain_until_one_tells() -> None:
    rest = settled()
    blind = rest
    for _ in range(100):
        blind = blind.blind(1.0)
    assert (
        blind.watts == rest.watts
        and blind.sigma_w > 5 * rest.sigma_w
        and blind.seen_sigma_w == rest.seen_sigma_w
    )
    assert blind.metered(4.2, 1.0).watts == pytest.approx(3.2)


@pytest.mark.parametrize(
    ("watts", "good"),
    [(3.0, True), (None, False), (math.nan, False), (math.inf, False), (-1.0, False), (0.0, False)],
)
def test_what_a_node_can_draw(watts: float | None, good: bool) -> None:
    assert sensible(watts) == good


def test_models_on_a_device_hold_it_once() -> None:
    other = measurement(GPU, 5.0, 0.01, holding_w=0.4)
    assert drawn_w([(SLOW, 10.0), (FAST, 10.0), (other, 10.0)]) == pytest.approx(0.2 + 0.3 + 0.1 + 0.6)
    assert drawn_w([(measurement(CPU, 5.0, None, holding_w=None), 10.0)]) == 0.0


def test_errors_of_one_meter_add_up() -> None:
    uncertain = measurement(CPU, 20.0, 0.02)
    held = [(uncertain, 10.0)]
    assert bound_w(3.0, 0.1, held) == pytest.approx(3.2 + 1.64 * 0.1)


@given(st.lists(st.tuples(st.floats(1e-6, MOST_W), st.floats(0, 1e3)) | st.none(), max_size=60))
def test_it_is_a_power_whatever_is_shown(shown: list[tuple[float, float] | None]) -> None:
    rest = Rest()
    for each in shown:
        rest = rest.blind(1.0) if each is None else rest.metered(*each)
        assert rest.watts is None or 0 <= rest.watts <= MOST_W
        assert rest.sigma_w >= 0 and math.isfinite(rest.sigma_w)
