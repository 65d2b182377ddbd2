from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agent.errors import ConfigError
from simulator import faultfile
from simulator.faultfile import MAX_BYTES, MAX_FAULTS, NAME, FaultFile
from simulator.faults import FOREVER, KINDS, Fault, Happening, Timeline, check_faults
from tests.unit.simulator.small import CPU, GPU, happening, small_board

BOARD = small_board()
TARGETS = {"": "", "device": "gpu", "fpga": "fpga", "rail": "card"}


def a_fault(kind: str) -> Fault:
    """Any fault of this kind that the small board can have."""
    value = KINDS[kind].high if KINDS[kind].unit else None
    return Fault(kind=kind, target=TARGETS[KINDS[kind].target], value=value)


# -- one fault ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_an_effect(kind: str) -> None:
    calm = Timeline(BOARD).at(0.0)
    struck = Timeline(BOARD, [Happening.of(a_fault(kind), 0.0)]).at(0.0)
    differ = {
        name
        for name in calm.__dataclass_fields__
        if name != "since" and getattr(calm, name) != getattr(struck, name)
    }
    assert differ
    check_faults([a_fault(kind)], BOARD)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"kind": "meteor"}, "there is no fault 'meteor'; there are thermal-step, throttle, co-tenant"),
        ({"kind": "x" * 65}, "at most 64 characters"),
        ({"kind": "device-lost"}, "device-lost names the device it acts on"),
        ({"kind": "sensor-missing"}, "sensor-missing names the rail it acts on"),
        ({"kind": "dma-timeout", "value": 1.0}, "dma-timeout names the fpga it acts on"),
        ({"kind": "brown-out", "target": "cpu"}, "brown-out acts on the board, not on a target"),
        ({"kind": "disk-full", "value": 3.0}, "disk-full takes no value"),
        ({"kind": "thermal-step"}, "thermal-step needs a value from -60 to 100 C"),
        ({"kind": "thermal-step", "value": 100.5}, "needs a value from -60 to 100 C"),
        ({"kind": "throttle", "target": "cpu", "value": 0.0}, "from 0.01 to 0.99 of its clock"),
        ({"kind": "throttle", "target": "cpu", "value": 1.0}, "from 0.01 to 0.99 of its clock"),
        ({"kind": "co-tenant", "target": "cpu", "value": -0.5}, "from 0.01 to 0.99 of the device"),
        ({"kind": "power-cap", "value": 0.0}, "from 0.1 to 10000 W"),
        ({"kind": "disk-slow", "value": 0.0}, "from 0.001 to 10000 MB/s"),
        ({"kind": "clock-jump", "value": 1e10}, "from -1e\\+09 to 1e\\+09 s"),
        ({"kind": "dma-timeout", "target": "fpga", "value": 61.0}, "from 0.01 to 60 s"),
        ({"kind": "thermal-step", "value": math.nan}, "finite"),
        ({"kind": "thermal-step", "value": math.inf}, "finite"),
        ({"kind": "thermal-step", "value": "30"}, "valid number"),
        ({"kind": "thermal-step", "value": True}, "valid number"),
        ({"kind": "disk-full", "at_s": -1.0}, "greater than or equal to 0"),
        ({"kind": "disk-full", "at_s": math.nan}, "finite"),
        ({"kind": "disk-full", "at_s": 1e10}, "less than or equal"),
        ({"kind": "disk-full", "for_s": 0.0}, "greater than 0"),
        ({"kind": "disk-full", "for_s": -5.0}, "greater than 0"),
        ({"kind": "disk-full", "for_s": math.inf}, "finite"),
        ({"kind": "disk-full", "until_s": 5.0}, "Extra inputs"),
        ({}, "required"),
    ],
)
def test_faults_that_are_none(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        Fault(**fields)


def test_a_value_that_may_be_left_out() -> None:
    assert Fault(kind="dma-timeout", target="fpga").amount == 1.0
    assert Fault(kind="dma-timeout", target="fpga", value=0.5).amount == 0.5


@pytest.mark.parametrize(
    ("kind", "target", "text"),
    [
        ("device-lost", "npu", "small has no device 'npu'; it has cpu, gpu, fpga"),
        ("dma-timeout", "gpu", "small has no fpga 'gpu'; it has fpga"),
        ("sensor-nonsense", "cpu", "small has no rail 'cpu'; it has total, card"),
    ],
)
def test_a_target_that_the_board_has_not(kind: str, target: str, text: str) -> None:
    fault = Fault(kind=kind, target=target)
    with pytest.raises(ConfigError, match=text):
        check_faults([a_fault("disk-full"), fault], BOARD)


def test_a_board_without_sensors() -> None:
    with pytest.raises(ConfigError, match="small has no rail 'total'; it has no rail"):
        check_faults([Fault(kind="sensor-missing", target="total")], small_board(rails=()))


# -- several over time -------------------------------------------------------------------------------------------------


def test_a_fault_holds_from_its_start_until_before_its_end() -> None:
    timeline = Timeline(BOARD, [happening("disk-full", at_s=2.0, for_s=3.0)])
    found = [(timeline.at(t).disk_full, timeline.at(t).until) for t in (0.0, 1.999, 2.0, 4.999, 5.0, 9.0)]
    assert found == [(False, 2.0), (False, 2.0), (True, 5.0), (True, 5.0), (False, FOREVER), (False, FOREVER)]
    assert timeline.at(1.0).disk_full is False  # going back is allowed


def test_without_an_end_it_stays() -> None:
    timeline = Timeline(BOARD, [happening("device-lost", "gpu", at_s=2.0)])
    assert timeline.at(1e12).lost == (False, True, False)


def test_faults_of_a_kind_add_up() -> None:
    now = Timeline(
        BOARD,
        [
            happening("throttle", "gpu", 0.5), happening("throttle", "gpu", 0.4),
            happening("co-tenant", "cpu", 0.5), happening("co-tenant", "cpu", 0.2),
            happening("power-cap", "", 9.0), happening("power-cap", "", 7.0),
            happening("thermal-step", "", 20.0), happening("thermal-step", "", -5.0),
            happening("disk-slow", "", 3.0), happening("disk-slow", "", 8.0),
            happening("clock-jump", "", 100.0), happening("clock-jump", "", -30.0),
            happening("dma-timeout", "fpga", 2.0), happening("dma-timeout", "fpga", 1.0),
        ],
    ).at(0.0)  # fmt: skip
    assert now.clock == pytest.approx((1.0, 0.2, 1.0))
    assert now.share == pytest.approx((0.6, 0.0, 0.0))
    assert (now.cap_w, now.ambient_c, now.disk_mb_s, now.clock_jump_s) == (7.0, 15.0, 3.0, 70.0)
    assert now.dma_timeout_s == (0.0, 0.0, 2.0)


def test_they_add_up_within_the_range_of_their_kind() -> None:
    kinds = ("throttle", "co-tenant", "thermal-step", "clock-jump")
    values = {"throttle": 0.01, "co-tenant": 0.99, "thermal-step": -60.0, "clock-jump": 1e9}
    many = [happening(kind, TARGETS[KINDS[kind].target], values[kind]) for kind in kinds for _ in range(50)]
    now = Timeline(BOARD, many).at(0.0)
    assert (now.clock[GPU], now.share[GPU], now.ambient_c, now.clock_jump_s) == (0.01, 0.99, -60.0, 1e9)


def test_a_brown_out_takes_devices_and_sensors() -> None:
    now = Timeline(BOARD, [happening("brown-out")]).at(0.0)
    assert (now.brown_out, now.lost, now.missing) == (True, (True,) * 3, (True, True))


def test_a_loss_is_remembered() -> None:
    losses = [
        happening("device-lost", "gpu", at_s=1.0, for_s=1.0),
        happening("brown-out", at_s=5.0, for_s=1.0),
    ]
    timeline = Timeline(BOARD, losses)
    assert timeline.at(0.0).back_at == (-FOREVER,) * 3
    assert timeline.at(1.5).back_at[GPU] == -FOREVER  # not back yet
    assert timeline.at(3.0).back_at == (-FOREVER, 2.0, -FOREVER)
    assert timeline.at(7.0).back_at == (6.0, 6.0, 6.0)


@given(
    st.lists(st.tuples(st.floats(0, 10), st.floats(0.001, 5)), max_size=12),
    st.lists(st.floats(-1, 20), max_size=30),
)
def test_conditions_hold_until_they_say(spans: list[tuple[float, float]], moments: list[float]) -> None:
    timeline = Timeline(BOARD, [happening("device-lost", "cpu", at_s=at, for_s=span) for at, span in spans])
    for moment in moments:
        now = timeline.at(moment)
        assert now.since <= moment < now.until
        assert now.lost[CPU] == any(at <= moment < at + span for at, span in spans)
        if now.until < FOREVER:
            assert timeline.at(math.nextafter(now.until, -math.inf)).lost == now.lost


# -- the file ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> FaultFile:
    return FaultFile(tmp_path, BOARD)


def test_what_is_written_is_read(file: FaultFile, tmp_path: Path) -> None:
    wanted = [Happening.of(a_fault(kind), 3.5) for kind in KINDS]
    wanted.append(happening("device-lost", "gpu", at_s=1.0, for_s=2.0))
    file.write(42, wanted)
    seed, timeline = FaultFile(tmp_path, BOARD).read()
    assert (seed, timeline.happenings) == (42, tuple(wanted))
    assert [path.name for path in tmp_path.iterdir()] == [NAME]  # nothing is left over


def test_no_file_is_no_fault(file: FaultFile) -> None:
    assert not file.changed()
    seed, timeline = file.read()
    assert (seed, timeline.happenings) == (0, ())


def test_a_change_is_seen_once(file: FaultFile, tmp_path: Path) -> None:
    other = FaultFile(tmp_path, BOARD)
    other.write(1, [happening("disk-full")])
    assert file.changed()
    file.read()
    assert not file.changed()
    other.write(1, [])
    assert file.changed()
    file.read()
    (tmp_path / NAME).unlink()
    assert file.changed()
    assert file.read()[1].happenings == ()


def test_everyone_who_runs_the_node_may_read_it(file: FaultFile, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        file.write(0, [])
    finally:
        os.umask(before)
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o644


GOOD = {"start": 0.0, "end": None, "fault": {"kind": "disk-full"}}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"\xff\xfe\x00", "JSON"),
        (b"[]", "top level"),
        (b"[" * 100_000, "JSON"),
        (json.dumps({"seed": "x"}).encode(), "seed: "),
        (json.dumps({"more": 1}).encode(), "more: unknown key"),
        (json.dumps({"happenings": [GOOD | {"start": None}]}).encode(), r"happenings\.0\.start"),
        (b'{"happenings": [{"start": NaN, "end": null, "fault": {"kind": "disk-full"}}]}', r"happenings\.0\.start"),
        (json.dumps({"happenings": [GOOD | {"fault": {"kind": "meteor"}}]}).encode(), "there is no fault 'meteor'"),
        (json.dumps({"happenings": [GOOD] * (MAX_FAULTS + 1)}).encode(), "at most 1000 items"),
        (b'{"happenings": [' + b" " * MAX_BYTES + b"]}", "larger than 1 MiB"),
        (
            json.dumps({"happenings": [GOOD | {"fault": {"kind": "device-lost", "target": "npu"}}]}).encode(),
            "small has no device 'npu'; it has cpu, gpu, fpga",  # injected into another board
        ),
    ],
)  # fmt: skip
def test_a_broken_file_says_what_to_do(file: FaultFile, tmp_path: Path, data: bytes, text: str) -> None:
    (tmp_path / NAME).write_bytes(data)
    with pytest.raises(ConfigError, match=f"(?s)board.faults.json: .*{text}.*; remove it to clear") as caught:
        file.read()
    assert len(str(caught.value)) < 1000
    assert not file.changed()  # it is not read again and again


def test_a_folder_in_its_place(file: FaultFile, tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    with pytest.raises(ConfigError, match=r"Is a directory.*; remove it to clear"):
        file.read()
    with pytest.raises(ConfigError, match=r"board.faults.json cannot be written: Is a directory"):
        file.write(0, [])
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written: No such file"):
        FaultFile(tmp_path / "none", BOARD).write(0, [])


def test_what_cannot_be_injected(file: FaultFile, tmp_path: Path) -> None:
    file.write(1, [happening("disk-full")])
    with pytest.raises(ConfigError, match="1001 faults are more than 1000; clear them: overlaid sim clear"):
        file.write(1, [happening("disk-full")] * (MAX_FAULTS + 1))
    with pytest.raises(ConfigError, match="no device 'npu'"):
        file.write(1, [happening("device-lost", "npu")])
    assert len(file.read()[1].happenings) == 1  # unharmed


def test_a_full_file_fits_its_own_limit(file: FaultFile) -> None:
    file.write(1, [happening("co-tenant", "fpga", 1 / 3, at_s=1e9 / 3, for_s=1e9 / 7)] * MAX_FAULTS)
    assert len(file.read()[1].happenings) == faultfile.MAX_FAULTS
