"""The soak's judgement: what counts as a leak."""

from __future__ import annotations

import pytest

from tests.soak.watch import Watch
from tests.system.footprint import Footprint


def watched(*held: tuple[float, int]) -> Watch:
    """A look every second at a process that held so many MB and descriptors."""
    watch = Watch(1)
    watch.looks += [(float(at), {"x": Footprint(7, fds, 3, mb)}) for at, (mb, fds) in enumerate(held)]
    return watch


@pytest.mark.parametrize(
    ("held", "leaks"),
    [
        ([(10.0 + at % 5, 20 + at % 7) for at in range(60)], False),
        ([(10.0 + min(at, 10), 20) for at in range(60)], False),  # it grows while it warms up
        ([(10.0 + at * 0.1, 20) for at in range(60)], True),
        ([(10.0, 20 + at // 5) for at in range(60)], True),
    ],
    ids=["noise", "warm-up", "memory", "descriptors"],
)
def test_what_grows_all_the_time_leaks(held: list[tuple[float, int]], leaks: bool) -> None:
    (trend,) = watched(*held).trends()
    assert trend.leaks is leaks and ("LEAKS" in str(trend)) is leaks


def test_a_process_that_was_seen_for_a_moment_says_nothing() -> None:
    watch = watched(*[(10.0, 20)] * 60)
    watch.looks.append((60.0, {"new": Footprint(8, 5, 1, 3.0)}))
    assert [trend.name for trend in watch.trends()] == ["x"]
