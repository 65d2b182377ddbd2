from __future__ import annotations

from pathlib import Path

import pytest

from agent.devices.power import open_meters
from agent.devices.power.files import UDEV_RULES
from agent.errors import MeterError
from tests.unit.devices.power.trees import RANGE_UJ, Clock, deny, lose, rapl, write

RULES = Path(__file__).parents[4] / "systemd/60-overlaid.rules"


def test_a_package_counter(tmp_path: Path) -> None:
    zone = rapl(tmp_path)
    (meter,), problems = open_meters(tmp_path)
    assert problems == ()
    assert (meter.rail, meter.tag, meter.joules()) == ("package-0", "measured", 0.0)
    write(zone, energy_uj=2_501_000)
    assert meter.joules() == pytest.approx(2.5)
    assert meter.joules() == pytest.approx(2.5)


def test_a_package_counter_wraps(tmp_path: Path) -> None:
    zone = rapl(tmp_path, energy_uj=RANGE_UJ - 1_000_000)
    (meter,), _ = open_meters(tmp_path)
    write(zone, energy_uj=500_000)
    assert meter.joules() == pytest.approx(1.5)


def test_a_counter_that_restarts_is_no_wrap(tmp_path: Path) -> None:
    zone, clock = rapl(tmp_path, energy_uj=9_000_000_000), Clock()
    (meter,), _ = open_meters(tmp_path, clock)
    write(zone, energy_uj=1_000_000)
    with pytest.raises(MeterError, match=r"energy_uj leaps from 9000000000 to 1000000"):
        meter.joules()
    clock.time += 1
    write(zone, energy_uj=3_000_000)
    assert meter.joules() == pytest.approx(2.0)


def test_parts_of_a_package_and_the_platform_are_not_counted_twice(tmp_path: Path) -> None:
    """Memory is no part of the package: Intel's manual, volume 3, "RAPL domains"."""
    rapl(tmp_path)
    rapl(tmp_path, "intel-rapl:0:0", "core")
    rapl(tmp_path, "intel-rapl:0:2", "dram")
    rapl(tmp_path, "intel-rapl:1", "package-1")
    rapl(tmp_path, "intel-rapl:2", "psys")
    meters, problems = open_meters(tmp_path)
    assert [meter.rail for meter in meters] == ["package-0", "package-0-dram", "package-1"]
    assert problems == ()


def test_a_counter_for_root_only_names_the_udev_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone = rapl(tmp_path)
    deny(monkeypatch, zone / "energy_uj")
    meters, (problem,) = open_meters(tmp_path)
    assert meters == ()
    assert f"{zone}/energy_uj: readable by root only" in problem
    assert UDEV_RULES["powercap"] in problem


def test_a_meter_that_becomes_unreadable_raises_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone = rapl(tmp_path, energy_uj=0)
    (meter,), _ = open_meters(tmp_path)
    with monkeypatch.context() as patch:
        lose(patch)
        with pytest.raises(MeterError, match="energy_uj: No such device"):
            meter.joules()
    with monkeypatch.context() as patch:
        deny(patch, zone / "energy_uj")
        with pytest.raises(MeterError, match="root only"):
            meter.joules()
    write(zone, energy_uj="")
    with pytest.raises(MeterError, match="'' is not a number"):
        meter.joules()
    write(zone, energy_uj=4_000_000)
    assert meter.joules() == pytest.approx(4.0)


@pytest.mark.parametrize("name", ["energy_uj", "max_energy_range_uj"])
@pytest.mark.parametrize("text", ["nonsense", "", "1.5", "0x10", "9" * 5000, None])
def test_a_broken_counter_is_a_problem(tmp_path: Path, name: str, text: str | None) -> None:
    zone = rapl(tmp_path)
    if text is None:
        (zone / name).unlink()
    else:
        write(zone, **{name: text})
    meters, (problem,) = open_meters(tmp_path)
    assert meters == ()
    assert problem.startswith(f"no power from {zone}/{name}: ")


def test_a_machine_without_sysfs(tmp_path: Path) -> None:
    meters, (problem,) = open_meters(tmp_path / "nothing")
    assert meters == ()
    assert "placement goes by latency" in problem


@pytest.mark.parametrize("kind", ["powercap", "vcio_gencmd"])
def test_the_rule_that_is_named_is_the_rule_that_is_shipped(kind: str) -> None:
    assert UDEV_RULES[kind] in RULES.read_text().splitlines()
