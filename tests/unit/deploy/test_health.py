from __future__ import annotations

from agent.deploy.health import DeviceHealth
from agent.errors import DeviceLost, DmaTimeout, OverlayLoadError


def test_a_lost_device_is_lost_at_once_and_told_once() -> None:
    health = DeviceHealth()
    assert health.failed("gpu", DeviceLost("fell off the bus"), 0.0)
    assert not health.failed("gpu", DeviceLost("again"), 1.0)
    assert health.lost == {"gpu": "fell off the bus"}
    health.found("gpu")
    assert health.lost == {}
    assert health.failed("gpu", DeviceLost("and again"), 2.0)


def test_three_failures_within_five_minutes_are_a_lost_device() -> None:
    health = DeviceHealth()
    assert not health.failed("fpga", DmaTimeout("no answer"), 0.0)
    assert not health.failed("fpga", OverlayLoadError("not taken"), 150.0)
    assert not health.failed("gpu", DmaTimeout("another device"), 151.0)
    assert not health.failed("fpga", DmaTimeout("no answer"), 301.0)  # the first is too long ago
    assert health.failed("fpga", DmaTimeout("the last straw"), 302.0)
    assert health.lost == {"fpga": "the last straw"}


def test_a_device_that_is_back_begins_anew() -> None:
    health = DeviceHealth()
    for now in range(3):
        health.failed("fpga", DmaTimeout("no answer"), now)
    health.found("fpga")
    assert not health.failed("fpga", DmaTimeout("no answer"), 4.0)
