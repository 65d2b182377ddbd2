"""What each board of tests/data/sysfs is measured by."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.devices.power import open_meters
from tests.unit.devices.power.trees import Clock, joules, unpack

pytestmark = pytest.mark.usefixtures("by_hand")

ZCU102 = (76, 77, 78, 87, 85, 86, 93, 88, 15, 92, 79, 81, 80, 84, 16, 65, 74, 75)  # u76 ...


@pytest.mark.parametrize(
    ("board", "rails"),
    [
        ("intel-laptop", ["package-0"]),
        ("intel-server", ["package-0", "package-0-dram", "package-1", "package-1-dram"]),
        ("amd-desktop", ["package-0"]),
        ("zcu102", [f"ina226_u{rail}" for rail in ZCU102]),
        ("kv260", ["ina260_u14"]),
        ("kv260-new", ["ina260-u14"]),
        ("jetson-orin-nano", ["VDD_IN"]),
        ("jetson-agx-orin", ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"]),
    ],
)
def test_the_rails_of_a_board(tmp_path: Path, board: str, rails: list[str]) -> None:
    meters, problems = open_meters(unpack(board, tmp_path), Clock())
    assert (sorted(meter.rail for meter in meters), problems) == (sorted(rails), ())
    assert {meter.tag for meter in meters} == {"measured"}


@pytest.mark.parametrize(
    ("board", "watts"), [("kv260", 4.83), ("kv260-new", 4.83), ("jetson-orin-nano", 5.056 * 0.912)]
)
def test_the_watts_of_a_board(tmp_path: Path, board: str, watts: float) -> None:
    clock = Clock()
    meters, _ = open_meters(unpack(board, tmp_path), clock)
    assert joules(meters, clock, 2.0).popitem()[1] == pytest.approx(2 * watts)


def test_the_watts_of_all_rails_together(tmp_path: Path) -> None:
    clock = Clock()
    meters, _ = open_meters(unpack("jetson-agx-orin", tmp_path), clock)
    assert sum(joules(meters, clock, 1.0).values()) == pytest.approx(19.304 * (0.168 + 0.044) + 4.992 * 0.72)
