from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.devices.power import UDEV_RULE, RaplMeter, WattMeter, open_meters
from agent.errors import MeterError
from agent.hal import PowerMeter

RANGE_UJ = 262_143_328_850  # as Intel laptops show


class Clock:
    def __init__(self) -> None:
        self.time = 50.0

    def __call__(self) -> float:
        return self.time


def write(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(f"{text}\n")
    return folder


def rapl(sysfs: Path, zone: str = "intel-rapl:0", name: str = "package-0", energy_uj: object = 1000) -> Path:
    folder = sysfs / "class/powercap" / zone
    return write(folder, name=name, energy_uj=energy_uj, max_energy_range_uj=RANGE_UJ)


def hwmon(sysfs: Path, number: int, **files: object) -> Path:
    return write(sysfs / "class/hwmon" / f"hwmon{number}", **files)


def only(sysfs: Path, clock: Clock | None = None) -> PowerMeter:
    (meter,), problems = open_meters(sysfs, clock or Clock())
    assert problems == ()
    return meter


def test_a_package_counter(tmp_path: Path) -> None:
    zone = rapl(tmp_path)
    meter = only(tmp_path)
    assert (meter.rail, meter.tag, meter.joules()) == ("package-0", "measured", 0.0)
    write(zone, energy_uj=2_501_000)
    assert meter.joules() == pytest.approx(2.5)
    assert meter.joules() == pytest.approx(2.5)


def test_a_package_counter_wraps(tmp_path: Path) -> None:
    zone = rapl(tmp_path, energy_uj=RANGE_UJ - 1_000_000)
    meter = only(tmp_path)
    write(zone, energy_uj=500_000)
    assert meter.joules() == pytest.approx(1.5)


def test_a_counter_that_restarts_is_not_a_wrap(tmp_path: Path) -> None:
    zone = rapl(tmp_path, energy_uj=9_000_000)
    meter = only(tmp_path)
    write(zone, energy_uj=1_000_000)
    assert meter.joules() == 0.0
    write(zone, energy_uj=3_000_000)
    assert meter.joules() == pytest.approx(2.0)


@given(st.lists(st.integers(0, RANGE_UJ // 4), max_size=12), st.integers(0, RANGE_UJ - 1))
def test_energy_is_the_sum_of_the_steps_across_wraps(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], start: int
) -> None:
    zone = rapl(tmp_path_factory.mktemp("sysfs"), energy_uj=start)
    meter = RaplMeter(zone)
    counter = start
    for step in steps:
        counter = (counter + step) % RANGE_UJ
        write(zone, energy_uj=counter)
        meter.joules()
    assert meter.joules() == pytest.approx(sum(steps) / 1e6)


def test_parts_of_a_package_and_the_platform_are_not_counted_twice(tmp_path: Path) -> None:
    rapl(tmp_path)
    rapl(tmp_path, "intel-rapl:0:0", "core")
    rapl(tmp_path, "intel-rapl:0:2", "dram")
    rapl(tmp_path, "intel-rapl:1", "package-1")
    rapl(tmp_path, "intel-rapl:2", "psys")
    meters, problems = open_meters(tmp_path)
    assert [meter.rail for meter in meters] == ["package-0", "package-1"]
    assert problems == ()


def test_a_counter_for_root_only_names_the_udev_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone = rapl(tmp_path)
    deny(monkeypatch, zone / "energy_uj")
    meters, (problem,) = open_meters(tmp_path)
    assert meters == ()
    assert f"{zone}/energy_uj: readable by root only" in problem
    assert 'SUBSYSTEM=="powercap"' in problem


def deny(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Make ``path`` unreadable, also for root."""
    read_text = Path.read_text

    def denied(self: Path, encoding: str | None = None, errors: str | None = None) -> str:
        if self == path:
            raise PermissionError(13, os.strerror(13), str(self))
        return read_text(self, encoding, errors)

    monkeypatch.setattr(Path, "read_text", denied)


def test_a_meter_that_becomes_unreadable_raises_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone = rapl(tmp_path, energy_uj=0)
    meter = only(tmp_path)
    with monkeypatch.context() as patch:
        deny(patch, zone / "energy_uj")
        with pytest.raises(MeterError, match="root only"):
            meter.joules()
    write(zone, energy_uj="")
    with pytest.raises(MeterError, match="'' is not a number"):
        meter.joules()
    (zone / "energy_uj").unlink()
    with pytest.raises(MeterError, match="No such file"):
        meter.joules()
    write(zone, energy_uj=4_000_000)
    assert meter.joules() == pytest.approx(4.0)


@pytest.mark.parametrize("name", ["energy_uj", "max_energy_range_uj"])
@pytest.mark.parametrize("text", ["nonsense", "", "1.5", "0x10", None])
def test_a_broken_counter_is_a_problem(tmp_path: Path, name: str, text: str | None) -> None:
    zone = rapl(tmp_path)
    if text is None:
        (zone / name).unlink()
    else:
        write(zone, **{name: text})
    meters, (problem,) = open_meters(tmp_path)
    assert meters == ()
    assert problem.startswith(f"no power from {zone}/{name}: ")


def test_watts_are_integrated_by_trapezoids(tmp_path: Path) -> None:
    chip = hwmon(tmp_path, 3, name="ina260_u14", power1_input=4_000_000)
    clock = Clock()
    meter = only(tmp_path, clock)
    assert (meter.rail, meter.tag, meter.joules()) == ("ina260_u14", "measured", 0.0)
    clock.time += 2.0
    write(chip, power1_input=6_000_000)
    assert meter.joules() == pytest.approx(10.0)
    clock.time += 1.0
    assert meter.joules() == pytest.approx(16.0)


def test_volts_times_amps_where_there_is_no_power(tmp_path: Path) -> None:
    # in0 is the shunt, in1 the bus; iio-hwmon has them as in1 and in2.
    hwmon(tmp_path, 0, name="ina226_u76", in1_input=1, in2_input=850, curr1_input=2000)
    hwmon(tmp_path, 1, name="ina219", label="VCC", in0_input=1, in1_input=12_000, curr1_input=500)
    clock = Clock()
    meters, problems = open_meters(tmp_path, clock)
    assert problems == ()
    clock.time += 10.0
    joules = {meter.rail: meter.joules() for meter in meters}
    assert joules == {"ina226_u76": pytest.approx(17.0), "VCC": pytest.approx(60.0)}


def test_rails_are_named_by_label_chip_or_address_never_by_number(tmp_path: Path) -> None:
    for number, address in ((5, "0-0040"), (6, "0-0041")):
        chip = hwmon(tmp_path, number, name="ina226", power1_input=1)
        (tmp_path / "devices" / address).mkdir(parents=True)
        (chip / "device").symlink_to(tmp_path / "devices" / address)
    hwmon(tmp_path, 7, name="ina230", label="VCCINT", power1_input=1)
    meters, _ = open_meters(tmp_path)
    assert [meter.rail for meter in meters] == ["ina226@0-0040", "ina226@0-0041", "VCCINT"]


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
    clock.time += 1.0
    joules = {meter.rail: meter.joules() for meter in meters}
    assert joules == {"GPU": pytest.approx(1.9), "ina3221-3": pytest.approx(5.0)}
    assert problems == ()


def test_a_total_rail_is_read_instead_of_its_parts(tmp_path: Path) -> None:
    hwmon(
        tmp_path, 1, name="ina3221",
        in1_label="VDD_IN", in1_input=5000, curr1_input=900,
        in2_label="VDD_CPU_GPU_CV", in2_input=5000, curr2_input=300,
        in3_label="VDD_SOC", in3_input=5000, curr3_input=200,
    )  # fmt: skip
    assert only(tmp_path).rail == "VDD_IN"


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


def test_glitches_raise_and_do_not_count(tmp_path: Path) -> None:
    watts = [2.0]
    clock = Clock()
    meter = WattMeter("VIN", lambda: watts[0], clock)
    for glitch in (70_000.0, -20.0, float("nan")):
        watts[0] = glitch
        clock.time += 0.5
        with pytest.raises(MeterError, match="VIN shows"):
            meter.joules()
    watts[0] = 2.0
    clock.time += 0.5
    assert meter.joules() == pytest.approx(4.0)  # 2 s at 2 W: the glitches are bridged
    watts[0] = -0.004
    clock.time += 1.0
    assert meter.joules() == pytest.approx(5.0)
    assert meter.joules() == pytest.approx(5.0)


def test_a_machine_without_sysfs(tmp_path: Path) -> None:
    meters, (problem,) = open_meters(tmp_path / "nothing")
    assert meters == ()
    assert "placement goes by latency" in problem


def test_the_rule_that_is_named_is_the_rule_that_is_shipped() -> None:
    shipped = Path(__file__).parents[3] / "systemd/60-overlaid.rules"
    assert UDEV_RULE in shipped.read_text().splitlines()
