"""A Raspberry Pi 5's PMIC, its firmware played by a function; no board has been seen.

The answers have the form that vcgencmd prints, the message that of the firmware's property interface.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.devices.power import open_meters, pmic
from agent.devices.power.files import UDEV_RULES
from agent.devices.power.pmic import Firmware, sum_watts
from agent.errors import MeterError
from tests.unit.devices.power.trees import Clock, joules, poll, unpack

pytestmark = pytest.mark.usefixtures("by_hand")
ANSWER = """ 3V7_WL_SW_A current(0)=0.10000000A
   VDD_CORE_A current(7)=2.00000000A
   DDR_VDDQ_A current(4)=0.00000000A
 3V7_WL_SW_V volt(8)=3.70000000V
   VDD_CORE_V volt(15)=0.75000000V
   DDR_VDDQ_V volt(12)=0.61000000V
     EXT5V_V volt(24)=5.17105900V
      BATT_V volt(25)=0.00598290V"""
WATTS = 0.1 * 3.7 + 2.0 * 0.75


class Board:
    """The board's device, and what its firmware answers."""

    def __init__(self, dev: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.dev, self.answer, self.code, self.error, self.failure = dev, ANSWER, 0x8000_0000, 0, 0
        dev.mkdir()
        monkeypatch.setattr(pmic, "ioctl", self.ioctl)

    def ioctl(self, file: int, request: int, message: bytearray, mutate: bool) -> int:
        assert request == 0xC0006400 | struct.calcsize("P") << 16 and mutate
        size, code, tag, value, length = struct.unpack_from("=5I", message)
        assert (size, code, tag, length) == (len(message), 0, 0x30080, 0)
        assert message[24:].startswith(b"pmic_read_adc\0")
        assert 20 + value + 4 == size and message[-4:] == b"\0\0\0\0"  # the end tag is where the value ends
        if self.failure:
            raise OSError(self.failure, os.strerror(self.failure))
        text = self.answer.encode() + b"\0"
        message[24 : 24 + len(text)] = text
        struct.pack_into("=I", message, 4, self.code)
        struct.pack_into("=I", message, 20, self.error)
        return 0


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    unpack("raspberry-pi-5", tmp_path / "sys")
    return Board(tmp_path / "dev", monkeypatch)


def test_the_converters_together(board: Board) -> None:
    (board.dev / "vcio_gencmd").touch()
    clock = Clock()
    meters, problems = open_meters(board.dev.parent / "sys", clock, board.dev)
    assert problems == ()
    assert [meter.tag for meter in meters] == ["measured"]
    assert joules(meters, clock, 2.0) == {"pmic": pytest.approx(2 * WATTS)}


def test_older_kernels_have_one_device_for_all(board: Board) -> None:
    (board.dev / "vcio").touch()
    firmware = Firmware(board.dev)
    assert firmware.path.name == "vcio" and firmware.watts() == pytest.approx(WATTS)


@pytest.mark.parametrize("there", [["vcio_gencmd"], ["vcio"], ["vcio", "vcio_gencmd"]])
def test_a_device_for_root_only_names_the_udev_rule(
    board: Board, monkeypatch: pytest.MonkeyPatch, there: list[str]
) -> None:
    for name in there:
        (board.dev / name).touch()

    def denied(path: Path, flags: int) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "open", denied)
    meters, (problem,) = open_meters(board.dev.parent / "sys", Clock(), board.dev)
    assert meters == () and UDEV_RULES[there[-1]] in problem


def test_without_its_device(board: Board) -> None:
    meters, (problem,) = open_meters(board.dev.parent / "sys", Clock(), board.dev)
    assert meters == () and "systemd/overlaid-pmic.conf" in problem


def test_the_real_ioctl_on_something_else(tmp_path: Path) -> None:
    (tmp_path / "vcio_gencmd").touch()
    with pytest.raises(MeterError, match=r"vcio_gencmd: .* \(ENOTTY\)"):
        Firmware(tmp_path).watts()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"error": 1, "answer": "error=1 error_msg=\"Command not registered\""}, "refuses .*not registered"),
        ({"code": 0x8000_0001}, "refuses"),
        ({"answer": ""}, "not understood"),
        ({"answer": ANSWER[:150]}, "not understood"),
        ({"answer": "VDD_CORE_A current(7)=nanA\nVDD_CORE_V volt(15)=1V"}, "not understood"),
        ({"failure": errno.EPERM}, r"Operation not permitted \(EPERM\)"),
        ({"failure": errno.ETIMEDOUT}, "ETIMEDOUT"),
    ],
)  # fmt: skip
def test_a_firmware_that_does_not_answer_as_known(board: Board, change: dict[str, object], text: str) -> None:
    (board.dev / "vcio_gencmd").touch()
    clock = Clock()
    (meter,), _ = open_meters(board.dev.parent / "sys", clock, board.dev)
    joules([meter], clock, 1.0)
    vars(board).update(change)
    clock.time += 3.0
    poll([meter])
    with pytest.raises(MeterError, match=text):
        meter.joules()
    meters, (problem,) = open_meters(board.dev.parent / "sys", clock, board.dev)
    assert meters == () and problem.startswith("no power from pmic: ")


@given(st.text())
def test_any_answer_is_watts_or_an_error(answer: str) -> None:
    with contextlib.suppress(MeterError):
        assert isinstance(sum_watts(answer), float)


def test_a_raspberry_pi_4_has_none(tmp_path: Path) -> None:
    meters, (problem,) = open_meters(unpack("raspberry-pi-4", tmp_path), Clock(), tmp_path)
    assert meters == () and problem.startswith("no power sensor")
