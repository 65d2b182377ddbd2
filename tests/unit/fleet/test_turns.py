"""What waits to be sent: everything once, packages in turn, never more than the limit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.fleet.turns import MAX_QUEUED, Turns

Keys = st.tuples(st.sampled_from("abc"), st.sampled_from("0123456789"))


@given(st.lists(Keys))
def test_each_block_goes_out_once_in_the_order_of_its_package(keys: list[tuple[str, str]]) -> None:
    turns = Turns()
    assert all([turns.add(key) for key in keys])
    wanted = list(dict.fromkeys(keys))
    assert len(turns) == len(wanted)
    got = [turns.pop() for _ in wanted]
    for package in "abc":
        assert [k for k in got if k[0] == package] == [k for k in wanted if k[0] == package]
    for length in range(len(got)):  # no package is ahead of one that waits
        counts = {p: sum(k[0] == p for k in got[:length]) for p in "abc"}
        left = {p: sum(k[0] == p for k in got[length:]) for p in "abc"}
        waiting = [counts[p] for p in "abc" if left[p]]
        assert max(waiting, default=0) - min(waiting, default=0) <= 1
    with pytest.raises(KeyError):
        turns.pop()


def test_one_package_cannot_take_what_others_need() -> None:
    turns = Turns()
    taken = sum(turns.add(("flood", str(n))) for n in range(2 * MAX_QUEUED))
    assert taken == len(turns) == MAX_QUEUED // 2
    assert turns.add(("flood", "0"))  # it waits already
    assert turns.add(("other", "0"))
    assert not turns.add(("other", "1"), others=MAX_QUEUED // 2)
    assert [turns.pop()[0] for _ in range(3)] == ["flood", "other", "flood"]
    turns.clear()
    assert len(turns) == 0
