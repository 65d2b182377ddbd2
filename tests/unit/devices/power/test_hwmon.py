from __future__ import annotations

from pathlib import Path

import pytest

from agent.devices.power import open_meters
from agent.devices.power.files import UDEV_RULES
from agent.errors import MeterError
from agent.hal import PowerMeter
from tests.unit.devices.power.trees import Clock, deny, hwmon, joules, lose, poll, rapl, write

pytestmark = pytest.mark.usefixtures("by_hand")


def only(sysfs: Path, clock: Clock | None = None) -> PowerMeter:
    (meter,), problems = open_meters(sysfs, clock or Clock())
    assert problems == ()
    return meter


def test_watts_are_integrated_by_trapezoids(tmp_path: Path) -> None:
    chip = hwmon(tmp_path, 3, name="ina260_u14", power1_input=4_000_000)
    clock = Clock()
    meter = only(tmp_path, clock)
    assert (meter.rail, meter.tag, meter.joules()) == ("ina260_u14", "measured", 0.0)
    clock.time += 1.0
    write(chip, power1_input=6_000_000)
    poll([meter])
    assert meter.joules() == pytest.approx(5.0)
    clock.time += 0.1
    assert meter.joules() == pytest.approx(5.6)  # as of now
    poll([meter])
    assert meter.joules() == pytest.approx(5.6)


def test_volts_times_amps_where_there_is_no_power(tmp_path: Path) -> None:
    # in0 is the shunt, in1 the bus; iio-hwmon has them as in1 and in2.
    hwmon(tmp_path, 0, name="ina226_u76", in1_input=1, in2_input=850, curr1_input=2000)
    hwmon(tmp_path, 1, name="ina219", label="VCC", in0_input=1, in1_input=12_000, curr1_input=500)
    clock = Clock()
    meters, problems = open_meters(tmp_path, clock)
    assert problems == ()
    assert joules(meters, clock, 10.0) == {"ina226_u76": pytest.approx(17.0), "VCC": pytest.approx(60.0)}


def test_rails_are_named_by_label_chip_or_address_never_by_number(tmp_path: Path) -> None:
    for number, address in ((5, "0-0040"), (6, "0-0041")):
        chip = hwmon(tmp_path, number, name="ina226", power1_input=1)
        (tmp_path / "devices" / address).mkdir(parents=True)
        (chip / "device").symlink_to(tmp_path / "devices" / address)
    hwmon(tmp_path, 7, name="ina230", label="VCCINT", power1_input=1)
    meters, _ = open_meters(tmp_path)
    assert [meter.rail for meter in meters] == ["ina226@0-0040", "ina226@0-0041", "VCCINT"]


def test_rails_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    for number, address in ((1, "1-0040"), (2, "1-0041")):
        chip = hwmon(tmp_path, number, name="ina226", label="VCC", power1_input=1)
        (tmp_path / "devices" / address).mkdir(parents=True)
        (chip / "device").symlink_to(tmp_path / "devices" / address)
    meters, _ = open_meters(tmp_path)
    assert [meter.rail for meter in meters] == ["VCC", "VCC@1-0041"]


def test_channels_of_an_ina3221(tmp_path: Path) -> None:
    hwmon(
        tmp_path, 1, name="ina3221",
        in1_label="GPU", in1_input=19_000, curr1_input=100,
        in2_label="NC", in2_input=0, curr2_input=0,
        in3_input=5000, curr3_input=1000,
        in4_input=7, in7_label="sum of shunt voltages", in7_input=9,
    )  # fmt: skip
    clock = Clock()
    meters, problems = open_meters(tmp_path, clock)
    assert joules(meters, clock, 1.0) == {"GPU": pytest.approx(1.9), "ina3221-3": pytest.approx(5.0)}
    assert problems == ()


def test_other_chips_are_left_alone(tmp_path: Path) -> None:
    hwmon(tmp_path, 0, name="coretemp", temp1_input=40_000)
    hwmon(tmp_path, 1, name="BAT0", power1_input=9_000_000)
    hwmon(tmp_path, 2)
    meters, (problem,) = open_meters(tmp_path)
    assert meters == ()
    assert "no power sensor" in problem


def test_a_chip_without_readings_is_a_problem(tmp_path: Path) -> None:
    hwmon(tmp_path, 0, name="ina226")
    rapl(tmp_path)
    (meter,), (problem,) = open_meters(tmp_path)
    assert meter.rail == "package-0"
    assert "ina226 shows neither power1_input nor curr1_input" in problem


def test_a_sensor_for_root_only_names_the_udev_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chip = hwmon(tmp_path, 0, name="ina226", power1_input=1)
    deny(monkeypatch, chip / "power1_input")
    meters, (problem,) = open_meters(tmp_path)
    assert meters == () and UDEV_RULES["hwmon"] in problem


def test_glitches_do_not_count(tmp_path: Path) -> None:
    """10 A at 0.16 V, watts that no rail draws, and a sensor that answers nonsense once."""
    chip = hwmon(tmp_path, 0, name="ina226_u79", in1_input=2, in2_input=850, power1_input=1_000_000)
    clock = Clock()
    meter = only(tmp_path, clock)
    good = {"in2_input": 850, "power1_input": 1_000_000}
    meter.joules()
    for glitch in (
        {"in2_input": 160, "power1_input": 1_600_000},
        {"power1_input": 70_000_000_000},
        {"power1_input": "nan"},
        {"power1_input": 40_000_000},
    ):
        for files in (good, glitch, good):
            write(chip, **files)
            clock.time += 0.1
            poll([meter])
            meter.joules()
    assert meter.joules() == pytest.approx(1.2)


def test_a_sensor_that_shows_only_nonsense_is_lost_after_a_while(tmp_path: Path) -> None:
    chip = hwmon(tmp_path, 0, name="ina226_u79", power1_input=1_000_000)
    clock = Clock()
    meter = only(tmp_path, clock)
    joules([meter], clock, 1.0)
    write(chip, power1_input=70_000_000_000)
    assert joules([meter], clock, 1.0)["ina226_u79"] == pytest.approx(1.5)  # what held goes on for 0.5 s
    clock.time += 1.5
    poll([meter])
    with pytest.raises(MeterError, match="ina226_u79 shows 70000 W; check the sensor's shunt value"):
        meter.joules()
    write(chip, power1_input=1_000_000)
    clock.time += 0.5
    poll([meter])
    assert meter.joules() == pytest.approx(4.0)  # what it drew meanwhile is as it was around


def test_a_sensor_that_shows_nonsense_from_the_start_is_a_problem(tmp_path: Path) -> None:
    hwmon(tmp_path, 0, name="ina226_u79", power1_input=70_000_000_000)
    meters, (problem,) = open_meters(tmp_path)
    assert meters == ()
    assert problem == "no power from ina226_u79 shows 70000 W; check the sensor's shunt value"


def test_a_sensor_that_goes_away_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hwmon(tmp_path, 0, name="ina226_u79", power1_input=1_000_000)
    clock = Clock()
    meter = only(tmp_path, clock)
    joules([meter], clock, 1.0)
    with monkeypatch.context() as patch:
        lose(patch)
        clock.time += 3.0
        poll([meter])
        with pytest.raises(MeterError, match=r"power1_input: No such device"):
            meter.joules()
    poll([meter])
    assert meter.joules() == pytest.approx(4.0)
