from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.fleet.repo.edits import overlap

PATTERNS = st.text("ab*?", min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("one", "two", "meet"),
    [
        ("digits/*", "digits/*", True), ("dig*/*", "*its/*", True), ("a?/*", "ab/*", True), ("*/*", "x/*", True),
        ("a/*", "b/*", False), ("a?/*", "a/*", False), ("a*b/*", "a*c/*", False), ("a**b/*", "ab/*", True),
        ("digits/*", "digits/1.0.0.json", True), ("dig/*", "digits/1.0.0.json", False),
    ],
)  # fmt: skip
def test_overlaps(one: str, two: str, meet: bool) -> None:
    assert overlap(one, two) == overlap(two, one) == meet


@given(PATTERNS, PATTERNS, st.text("ab", max_size=8))
def test_what_matches_both_is_an_overlap(one: str, two: str, name: str) -> None:
    if fnmatch.fnmatchcase(name, one) and fnmatch.fnmatchcase(name, two):
        assert overlap(f"{one}/*", f"{two}/*")


@given(PATTERNS, st.text("ab", min_size=1, max_size=8))
def test_a_name_overlaps_the_patterns_that_match_it(pattern: str, name: str) -> None:
    assert overlap(pattern, name) == fnmatch.fnmatchcase(name, pattern)
