from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest

from agent.app.meters import node_meters
from agent.config import Power
from agent.devices.power import NO_SENSOR
from agent.devices.power.estimate import EstimateMeter
from agent.hal import Board, PowerMeter
from agent.types import BoardInfo, DeviceInfo

STATED = Power(idle_w=2.0, busy_w=6.0)
CPU, FPGA = DeviceInfo("cpu", "cpu", "CPU", ()), DeviceInfo("fpga", "fpga", "FPGA", ())


class Sensed:
    """A board with these meters."""

    def __init__(self, *meters: PowerMeter) -> None:
        self._meters = meters

    def meters(self) -> Sequence[PowerMeter]:
        return self._meters


def tags(power: Power, *devices: DeviceInfo, sensor: bool = False, simulated: bool = False) -> list[str]:
    measured = EstimateMeter(1.0, 2.0)
    measured.tag = "measured"
    board = cast(Board, Sensed(measured) if sensor else Sensed())
    problems = (f"{NO_SENSOR}none", "litert: not installed")
    meters, info = node_meters(board, BoardInfo("here", simulated, devices, problems=problems), power)
    assert (info.meters, info.problems) == (
        (("estimate",), problems[1:]) if meters and not sensor else ((), problems)
    )
    return [meter.tag for meter in meters]


def test_a_board_without_a_sensor_is_estimated_where_its_watts_are_stated() -> None:
    assert tags(STATED, CPU) == ["estimated"]
    assert tags(Power(), CPU) == []


def test_what_is_measured_is_not_estimated() -> None:
    assert tags(STATED, CPU, sensor=True) == ["measured"]


@pytest.mark.parametrize(("devices", "simulated"), [((CPU, FPGA), False), ((CPU,), True)])
def test_what_the_cpus_time_does_not_show_is_not_estimated(
    devices: tuple[DeviceInfo, ...], simulated: bool, caplog: pytest.LogCaptureFixture
) -> None:
    assert tags(STATED, *devices, simulated=simulated) == []
    assert "remove power.idle_w" in caplog.text
