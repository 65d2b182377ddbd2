import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from agent.link.backoff import CAP_S, FLOOR_S, STABLE_S, Backoff, next_delay


@given(attempt=st.integers(0, 10_000), seed=st.integers())
def test_a_delay_lies_between_the_floor_and_the_cap(attempt: int, seed: int) -> None:
    delay = next_delay(attempt, random.Random(seed))
    assert FLOOR_S <= delay <= min(CAP_S, FLOOR_S * (1 + 2.0 ** min(attempt, 10)))


def test_many_nodes_spread_over_the_whole_range() -> None:
    delays = sorted(next_delay(9, random.Random(seed)) for seed in range(400))
    assert delays[0] < 10 and delays[-1] > 50
    assert max(late - early for early, late in itertools.pairwise(delays)) < 3


def test_only_a_stable_connection_resets_the_attempts() -> None:
    backoff = Backoff()
    assert backoff.after(7, held_s=0.0) == 8
    assert backoff.after(7, held_s=STABLE_S - 1) == 8
    assert backoff.after(7, held_s=STABLE_S) == 0


def test_floor_and_cap_can_be_set() -> None:
    assert 0.1 <= Backoff(floor_s=0.1, cap_s=0.2).delay(50, random.Random(1)) <= 0.2
