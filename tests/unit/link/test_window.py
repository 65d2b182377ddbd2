"""Every wanted block arrives whatever is lost; the limits hold at every step."""

from __future__ import annotations

import hashlib
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.link.window import CAP_S, FLOOR_S, MAX_BLOCKS, MAX_BYTES, START_S, Window

Sizes = st.lists(st.integers(0, 1 << 20), min_size=1, max_size=60)


def digests(sizes: list[int]) -> dict[str, int]:
    return {hashlib.sha256(b"%d" % index).hexdigest(): size for index, size in enumerate(sizes)}


def weight(wanted: dict[str, int], shas: frozenset[str]) -> int:
    return sum(wanted[sha] or 1 << 20 for sha in shas)


@settings(deadline=None)
@given(sizes=Sizes, seed=st.integers(), loss=st.floats(0, 0.7), restarts=st.floats(0, 0.1))
def test_all_blocks_arrive_within_the_window(
    sizes: list[int], seed: int, loss: float, restarts: float
) -> None:
    wanted, luck, now = digests(sizes), random.Random(seed), 100.0
    window = Window(wanted)
    for _ in range(5000):
        if not len(window):
            break
        asked = window.request(now)
        assert len(asked) <= MAX_BLOCKS
        assert len(window.asked) <= MAX_BLOCKS
        assert weight(wanted, window.asked) <= MAX_BYTES
        arriving = [sha for sha in asked if luck.random() >= loss]
        for sha in arriving:
            now += 0.01
            window.arrived(sha, now)
        if luck.random() < restarts:
            window.restart()
        if not arriving:
            patience = window.patience(now)
            now += 0.0 if patience is None else patience
    assert len(window) == 0
    assert window.patience(now) is None


def test_blocks_are_asked_for_in_order_and_half_a_window_at_a_time() -> None:
    wanted = digests([1000] * 40)
    order = list(wanted)
    window = Window(wanted)
    assert window.request(0.0) == order[:16]
    for sha in order[:7]:
        window.arrived(sha, 0.1)
        assert window.request(0.1) == []
    window.arrived(order[7], 0.1)
    assert window.request(0.1) == order[16:24]


def test_blocks_that_pass_by_are_not_asked_for() -> None:
    wanted = digests([1000] * 20)
    order = list(wanted)
    window = Window(wanted)
    window.request(0.0)
    for sha in order[16:] + order[:8]:
        window.arrived(sha, 0.1)
        window.arrived(sha, 0.1)  # twice is harmless
    assert window.request(0.1) == []
    assert len(window) == 8


def test_silence_doubles_the_time_out_up_to_its_cap() -> None:
    wanted = digests([10])
    window, now, waits = Window(wanted), 0.0, []
    window.request(now)
    for _ in range(8):
        patience = window.patience(now)
        assert patience is not None
        waits.append(patience)
        assert window.request(now + patience - 0.001) == []
        now += patience
        assert window.request(now) == list(wanted)
    assert waits == [START_S, 4, 8, 16, CAP_S, CAP_S, CAP_S, CAP_S]


def test_a_slow_link_that_keeps_delivering_is_not_asked_twice() -> None:
    wanted = digests([256 * 1024] * 16)
    window, now = Window(wanted), 0.0
    asked = window.request(now)
    assert len(asked) == 16
    for sha in asked:
        now += 1.9  # 1.1 Mbit/s: the window takes half a minute
        assert window.request(now) == []
        window.arrived(sha, now)
    assert len(window) == 0


def test_one_lost_block_is_asked_for_while_others_flow() -> None:
    wanted = digests([1000] * 400)
    order = list(wanted)
    window, now, again = Window(wanted), 0.0, None
    lost = order[0]
    for _ in range(3000):
        asked = window.request(now)
        if now and lost in asked:
            again = now
            break
        now += 0.05
        flowing = next((sha for sha in order if sha in window.asked and sha != lost), None)
        if flowing:
            window.arrived(flowing, now)
    assert again is not None and again <= 4 * max(START_S, FLOOR_S) + 0.1


def test_a_new_connection_asks_again_at_once_and_first_for_what_was_asked() -> None:
    wanted = digests([1000] * 30)
    order = list(wanted)
    window = Window(wanted)
    window.request(0.0)
    window.arrived(order[3], 0.1)
    window.restart()
    assert window.request(0.2) == [*order[:3], *order[4:17]]


@given(sizes=Sizes, rooms=st.lists(st.floats(-1e6, 5e6), min_size=1, max_size=8))
def test_no_more_is_asked_for_than_there_is_room_for_but_one_block(
    sizes: list[int], rooms: list[float]
) -> None:
    wanted, now = digests(sizes), 0.0
    window = Window(wanted)
    for room in rooms:
        asked = window.request(now, room)
        assert weight(wanted, frozenset(asked[:-1])) < max(room, 1e-9) or not asked[:-1]
        assert not (asked and room <= 0)
        now += 4 * CAP_S  # all of it is late
