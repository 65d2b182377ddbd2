"""The first rounds of the fuzzer of requests (``tests.fuzz.codec`` goes on from there)."""

from __future__ import annotations

from collections import Counter

from tests.fuzz.codec import one_round


def test_damaged_requests_get_answers_or_named_errors() -> None:
    outcomes = Counter(one_round(seed) for seed in range(1500))
    assert outcomes.keys() == {"200", "400", "413", "415"}
    assert outcomes["200"] > 100
