"""Numbers that come twice, late or never."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from agent.fleet.tally import MAX_GAPS, Tally, beginning, describe


@given(st.lists(st.integers(1, 40), max_size=60))
def test_what_is_new_received_and_missing_adds_up(numbers: list[int]) -> None:
    tally, seen = Tally(), set[int]()
    for number in numbers:
        tally, new = tally.after(number)
        assert new is (number not in seen)
        seen.add(number)
        assert tally.missing == max(seen) - len(seen)
        assert {n for low, high in tally.gaps for n in range(low, high + 1)} == set(
            range(1, max(seen))
        ) - seen
    assert (tally.received, tally.duplicates) == (len(seen), len(numbers) - len(seen))


def test_old_gaps_are_counted_when_they_are_too_many_to_remember() -> None:
    tally = Tally()
    for number in range(2, 2 * MAX_GAPS + 10, 2):
        tally, _ = tally.after(number)
    assert len(tally.gaps) == MAX_GAPS and tally.given_up == 4 and tally.missing == MAX_GAPS + 4
    assert tally.after(1) == (replace(tally, duplicates=1), False)


def test_a_new_operator_begins_where_it_hears_a_series_first_and_a_known_node_at_one() -> None:
    assert beginning(7, known=False).after(7)[0].missing == 0
    assert beginning(7, known=True).after(7)[0].gaps == ((1, 6),)
    assert describe(((5, 5), (7, 9))) == "5, 7-9"
