"""The first rounds of the fuzzer of heads and connections (``tests.fuzz.heads`` goes on from there)."""

from __future__ import annotations

from collections import Counter

from tests.fuzz.heads import one_round


def test_answers_do_not_depend_on_how_the_bytes_arrive() -> None:
    statuses: Counter[int] = Counter()
    for seed in range(300):
        statuses += one_round(seed)
    assert statuses.keys() >= {200, 400, 404, 431} and statuses[200] > 100
