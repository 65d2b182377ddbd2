"""What the node draws, as it is shown and as placement goes by it."""

from __future__ import annotations

from agent.app.power import PowerLog
from agent.types import PowerSample


def test_a_sum_that_lacks_a_rail_is_shown_and_not_gone_by() -> None:
    log = PowerLog()
    both = [PowerSample(1.0, "core", 2.0), PowerSample(1.0, "io", 1.0)]
    log.add(both)
    assert (log.watts, log.total_w) == (3.0, 3.0)
    log.add(both[:1])
    assert (log.watts, log.total_w) == (2.0, None)
    log.add([])
    assert (log.watts, log.total_w) == (None, None)
    log.add(both)
    assert log.total_w == 3.0
