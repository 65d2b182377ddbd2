"""Boards that come with the simulator are whole and say where each number is from; broken profiles are refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.errors import ConfigError, RuntimeUnavailable
from agent.paths import read_toml
from agent.types import OverlayRef
from simulator.profile import BOARDS, BoardProfile, Device, board_names, load_profile, read_profile
from simulator.speed import run_seconds
from simulator.work import Work

NAMES = ("jetson-orin-nano", "kv260", "pynq-z2", "rpi5", "x86-dgpu")
DOC = Path(__file__).parents[3] / "docs" / "boards.md"

WORKS = """\
name = "bench"
title = "a board of 2 devices"
supply_w = 10.0
ambient_c = 25.0

[base]
watts = 2.0
zone = "soc"

[[zones]]
name = "soc"
r_c_per_w = 5.0
c_j_per_c = 20.0

[[zones.throttle]]
at_c = 80.0
factor = 0.75

[[zones.throttle]]
at_c = 90.0
factor = 0.5

[[devices]]
id = "cpu"
kind = "cpu"
name = "a core"
zone = "soc"
formats = ["onnx", "tflite"]
memory_mb = 512
active_w = 1.0
overhead_us = 100.0
jitter = 0.03
load_s = 0.1
bandwidth_gb_s = 2.0
peak.fp32 = 1.0

[[devices]]
id = "fpga"
kind = "fpga"
name = "some logic"
zone = "soc"
formats = ["onnx"]
memory_mb = 128
holding_w = 0.5
active_w = 1.5
overhead_us = 200.0
jitter = 0.01
load_s = 0.2
bandwidth_gb_s = 1.0
peak.int8 = 20.0
overlay.names = ["npu"]
overlay.load_s = 0.5
overlay.load_j = 0.3

[[rails]]
name = "total"
measures = ["base", "cpu", "fpga"]
resolution_w = 0.01
rate_hz = 20.0
"""
# What is wrong: (text, what it becomes, what the message says). The first occurrence is replaced.
BROKEN = {
    "unknown key": ("supply_w = 10.0", "supply_w = 10.0\nfan = true", "fan: unknown key"),
    "unknown key of a device": ("load_s = 0.1", "load_s = 0.1\ncores = 2", r"devices\.0\.cores: unknown key"),
    "missing key": ("supply_w = 10.0\n", "", "supply_w"),
    "negative watts": ("watts = 2.0", "watts = -2.0", r"base\.watts"),
    "negative time": ("load_s = 0.1", "load_s = -0.1", r"devices\.0\.load_s"),
    "no active power": ("active_w = 1.0", "active_w = 0.0", r"devices\.0\.active_w"),
    "NaN": ("r_c_per_w = 5.0", "r_c_per_w = nan", r"zones\.0\.r_c_per_w"),
    "infinity": ("bandwidth_gb_s = 2.0", "bandwidth_gb_s = inf", r"devices\.0\.bandwidth_gb_s"),
    "infinite peak": ("peak.fp32 = 1.0", "peak.fp32 = inf", r"devices\.0\.peak\.fp32"),
    "NaN peak": ("peak.int8 = 20.0", "peak.int8 = nan", r"devices\.1\.peak\.int8"),
    "peak of zero": ("peak.fp32 = 1.0", "peak.fp32 = 0.0", "peak.fp32 must be above 0"),
    "unknown precision": ("peak.fp32 = 1.0", "peak.fp8 = 1.0", r"devices\.0\.peak\.fp8"),
    "no peak": ("peak.fp32 = 1.0", "peak = {}", r"devices\.0: peak and bandwidth_gb_s are needed"),
    "no bandwidth": ("bandwidth_gb_s = 2.0", "", r"devices\.0: peak and bandwidth_gb_s are needed"),
    "text for a number": ("watts = 2.0", 'watts = "2.0"', r"base\.watts"),
    "truth for a number": ("watts = 2.0", "watts = true", r"base\.watts"),
    "fraction of a megabyte": ("memory_mb = 512", "memory_mb = 512.5", r"devices\.0\.memory_mb"),
    "date for a number": ("ambient_c = 25.0", "ambient_c = 2024-05-01", "ambient_c"),
    "number for a title": ('title = "a board of 2 devices"', "title = 12", "title"),
    "bad name": ('name = "bench"', 'name = "Bench 1"', "name"),
    "unknown kind": ('kind = "cpu"', 'kind = "npu"', r"devices\.0\.kind"),
    "unknown format": ('"tflite"]', '"openvino"]', r"devices\.0\.formats"),
    "no format": ('formats = ["onnx", "tflite"]', "formats = []", r"devices\.0\.formats"),
    "throttle at ambient": ("at_c = 80.0", "at_c = 25.0", "zone soc: throttles at 25 C, not above ambient 25 C"),
    "throttle below ambient": ("at_c = 80.0", "at_c = 10.0", "zone soc: throttles at 10 C"),
    "back from throttle below ambient": ("at_c = 80.0", "at_c = 27.0", "zone soc: throttles at 27 C"),
    "throttle points fall": ("at_c = 80.0", "at_c = 95.0", "zone soc: throttle points must rise"),
    "throttle points equal": ("at_c = 80.0", "at_c = 90.0", "zone soc: throttle points must rise"),
    "factors rise": ("factor = 0.75", "factor = 0.4", "zone soc: .* their factors fall"),
    "factor of one": ("factor = 0.75", "factor = 1.0", r"zones\.0\.throttle\.0\.factor"),
    "factor of zero": ("factor = 0.5", "factor = 0.0", r"zones\.0\.throttle\.1\.factor"),
    "more than the supply": ("supply_w = 10.0", "supply_w = 4.9", "draw 5 W in all, the supply gives 4.9 W"),
    "device in no zone": ('a core"\nzone = "soc"', 'a core"\nzone = "case"', "device cpu: .*no zone 'case'"),
    "base in no zone": ('watts = 2.0\nzone = "soc"', 'watts = 2.0\nzone = "case"', "base: there is no zone 'case'"),
    "rail of nothing known": ('"cpu", "fpga"]', '"gpu"]', "rail total: measures 'gpu'; there are base, cpu, fpga"),
    "rail of nothing": ('measures = ["base", "cpu", "fpga"]', "measures = []", r"rails\.0\.measures"),
    "two devices of one id": ('id = "fpga"', 'id = "cpu"', "devices: a name appears twice"),
    "a device called base": ('id = "cpu"', 'id = "base"', "cannot have the id 'base'"),
    "two overlays of one name": ('["npu"]', '["npu", "npu"]', r"overlay: .*names: a name appears twice"),
    "fpga without overlays": (
        'overlay.names = ["npu"]\noverlay.load_s = 0.5\noverlay.load_j = 0.3\n', "", "an fpga has an overlay table",
    ),
    "overlays of a cpu": ('kind = "fpga"', 'kind = "cpu"', "other devices have none"),
    "two slots": ("overlay.load_j = 0.3", "overlay.load_j = 0.3\noverlay.slots = 2", r"overlay\.slots"),
    "no TOML": ("[base]", "[base", "bench.toml"),
}  # fmt: skip


def read(tmp_path: Path, text: str) -> BoardProfile:
    path = tmp_path / "bench.toml"
    path.write_text(text)
    return read_profile(path)


def numbers(value: Any) -> Iterator[float]:
    """Every number in parsed TOML."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from numbers(part)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


def test_a_whole_profile_is_read(tmp_path: Path) -> None:
    profile = read(tmp_path, WORKS)
    assert profile.device("fpga").overlay is not None
    assert profile.zones[0].throttle[1].hysteresis_c == 3.0


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_profile_is_refused_with_the_file_and_the_key(tmp_path: Path, what: str) -> None:
    before, after, says = BROKEN[what]
    assert before in WORKS
    with pytest.raises(ConfigError, match=says) as error:
        read(tmp_path, WORKS.replace(before, after, 1))
    assert "bench.toml" in str(error.value)


def test_a_zone_or_a_rail_twice_is_refused(tmp_path: Path) -> None:
    zone = '\n[[zones]]\nname = "soc"\nr_c_per_w = 1.0\nc_j_per_c = 1.0\n'
    rail = '\n[[rails]]\nname = "total"\nmeasures = ["base"]\nresolution_w = 0.1\nrate_hz = 1.0\n'
    for text, says in ((zone, "zones: a name appears twice"), (rail, "rails: a name appears twice")):
        with pytest.raises(ConfigError, match=says):
            read(tmp_path, WORKS + text)


def test_a_board_without_devices_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="devices: "):
        read(tmp_path, WORKS.partition("[[devices]]")[0])


def test_a_missing_file_is_a_named_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.toml"):
        read_profile(tmp_path / "gone.toml")


def test_unknown_boards_and_devices_are_told_what_there_is() -> None:
    with pytest.raises(RuntimeUnavailable, match=r"'pi6'.*jetson-orin-nano, kv260, pynq-z2, rpi5, x86-dgpu"):
        load_profile("pi6")
    with pytest.raises(RuntimeUnavailable, match=r"'gpu'.*cpu, fpga"):
        load_profile("kv260").device("gpu")


def test_these_boards_come_with_the_simulator() -> None:
    assert tuple(board_names()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_board_loads_under_its_files_name(name: str) -> None:
    assert load_profile(name).name == name


@pytest.mark.parametrize("name", NAMES)
def test_every_number_stands_on_its_line_with_source_or_assumption(name: str) -> None:
    path = BOARDS / f"{name}.toml"
    explained = 0
    for line in path.read_text().splitlines():
        code, _, comment = re.sub(r'"[^"]*"', '""', line).partition("#")
        if re.search(r"=.*\d", code):
            explained += 1
            assert re.match(r" (source|assumption): \w.{8,}", comment), f"{path.name}: {line}"
    assert explained == len(list(numbers(read_toml(path))))


@pytest.mark.parametrize("name", NAMES)
def test_a_board_at_full_load_in_its_room_stays_below_its_last_throttle_point(name: str) -> None:
    """Else one point of the profile would be reached always, or the heat model is off."""
    profile = load_profile(name)
    for zone in profile.zones:
        watts = sum(d.idle_w + d.holding_w + d.active_w for d in profile.devices if d.zone == zone.name)
        watts += profile.base.watts if profile.base.zone == zone.name else 0.0
        settles_c = profile.ambient_c + zone.r_c_per_w * watts
        assert settles_c < (zone.throttle[-1].at_c if zone.throttle else 85.0)
        assert 10 < zone.r_c_per_w * zone.c_j_per_c < 3600, "settles in seconds or in hours"


def milliseconds(board: str, device: str, precision: str = "int8", macs: float = 50e6) -> float:
    work = Work(int(macs), 300_000, precision)
    if device == "fpga":  # 256 MAC a cycle at 100 MHz, 85 % of them
        work = replace(work, overlay=OverlayRef("npu", 1, 16), overlay_s=macs / 256 / 0.85 / 100e6)
    return run_seconds(load_profile(board).device(device), work) * 1e3


def test_accelerators_are_faster_than_their_boards_core_on_a_camera_sized_network() -> None:
    for board, fast in (
        ("pynq-z2", "fpga"),
        ("kv260", "fpga"),
        ("jetson-orin-nano", "gpu"),
        ("x86-dgpu", "gpu"),
    ):
        assert milliseconds(board, fast) < milliseconds(board, "cpu"), board


def test_a_core_is_faster_than_a_gpu_on_a_small_network() -> None:
    for board in ("jetson-orin-nano", "x86-dgpu"):
        assert milliseconds(board, "cpu", macs=2e6) < milliseconds(board, "gpu", macs=2e6), board


def test_cores_order_as_their_clocks_and_vector_units_do() -> None:
    boards = ("x86-dgpu", "rpi5", "jetson-orin-nano", "kv260", "pynq-z2")
    for precision in ("int8", "fp32"):
        times = [milliseconds(board, "cpu", precision) for board in boards]
        assert times == sorted(times)


def test_times_are_of_the_size_that_such_boards_show() -> None:
    """50 M MACs, batch 1, one thread."""
    for board, device, precision, low, high in (
        ("pynq-z2", "cpu", "int8", 30, 50),
        ("pynq-z2", "fpga", "int8", 2, 4),
        ("jetson-orin-nano", "cpu", "int8", 2, 4),
        ("jetson-orin-nano", "cpu", "fp32", 6, 9),
        ("jetson-orin-nano", "gpu", "int8", 0.5, 1.3),
        ("rpi5", "cpu", "int8", 1.5, 3),
        ("rpi5", "cpu", "fp32", 4, 6),
    ):
        assert low < milliseconds(board, device, precision) < high, (board, device, precision)


def throttles(profile: BoardProfile, device: Device) -> str:
    zone = next(z for z in profile.zones if z.name == device.zone)
    return ", ".join(f"{t.at_c:g} °C to {100 * t.factor:g} %" for t in zone.throttle) or "none"


def table() -> list[str]:
    """The lines that docs/boards.md shows, of the profiles."""
    rows = []
    for name in NAMES:
        profile = load_profile(name)
        for d in profile.devices:
            peak = ", ".join(f"{precision} {gmacs:g}" for precision, gmacs in d.peak.items())
            peak = peak or "as its overlay"
            rails = ", ".join(f"`{r.name}` {r.rate_hz:g}/s" for r in profile.rails if d.id in r.measures)
            rows.append(
                f"| {name} ({profile.base.watts:g} W) | {d.id}: {d.name} | {', '.join(d.formats)} | {peak} "
                f"| {d.idle_w:g} / {d.holding_w:g} / {d.active_w:g} | {rails} | {throttles(profile, d)} |"
            )
    return rows


def test_the_page_about_boards_shows_them_as_they_are() -> None:
    shown = [
        line for line in DOC.read_text().splitlines() if line.startswith(tuple(f"| {n} (" for n in NAMES))
    ]
    assert shown == table(), "docs/boards.md should show:\n" + "\n".join(table())
