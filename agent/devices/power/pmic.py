"""The power management chip of a Raspberry Pi 5, whose converters the firmware reads. Older ones sense no current.

The firmware is asked what ``vcgencmd pmic_read_adc`` asks (Raspberry Pi documentation, "vcgencmd"), without that
program: a message of the property interface (raspberrypi/firmware wiki, "Mailbox property interface") with the tag
GET_GENCMD_RESULT, by the ioctl of the kernel's drivers/char/broadcom/vcio.c. /dev/vcio_gencmd (kernels since 2026)
lets nothing but this tag through; before there was only /dev/vcio. The firmware reads many channels, so a thread asks.

It sees what the chip supplies: processor, memory, wireless, HDMI. USB, HATs and what hangs on 5 V are not in it.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import struct
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path

from agent.devices.power.account import Watts
from agent.devices.power.files import not_permitted, optional
from agent.devices.power.polled import PolledMeter, Poller
from agent.errors import MeterError
from agent.hal import PowerMeter

CHIP = "brcm,bcm2712"  # of a Raspberry Pi 5, 500 or Compute Module 5
DEVICES = ("vcio_gencmd", "vcio")
MAILBOX_PROPERTY = 3 << 30 | struct.calcsize("P") << 16 | 100 << 8  # _IOWR(100, 0, char *)
GET_GENCMD_RESULT = 0x0003_0080
SUCCESS = 0x8000_0000
TEXT_BYTES = 4092  # of the command and of its answer, which has 900
# Message: size, code; tag, bytes of its value, length; the value: an error and the text; end tag.
HEAD, END = struct.Struct("=IIIIII"), struct.Struct("=I")
CONVERTER = re.compile(r"(\w+)_([AV])\s+(?:current|volt)\(\d+\)=(-?\d+(?:\.\d+)?)[AV]")


def find_pmic(sysfs: Path, dev: Path, clock: Callable[[], float]) -> list[Callable[[], PowerMeter]]:
    """What opens its meter, on the boards that have one."""
    if CHIP not in optional(sysfs / "firmware/devicetree/base/compatible").split("\0"):
        return []
    return [functools.partial(_open, dev, clock)]


def _open(dev: Path, clock: Callable[[], float]) -> PowerMeter:
    firmware = Firmware(dev)
    return PolledMeter(Poller(), "pmic", Watts(), lambda: (firmware.watts(),), clock)


class Firmware:
    """The firmware, asked through its device."""

    def __init__(self, dev: Path) -> None:
        """MeterError when no device of DEVICES is there and may be opened."""
        there = [dev / name for name in DEVICES if (dev / name).exists()]
        if not there:
            raise MeterError(
                f"pmic: there is no {dev / DEVICES[0]}; Raspberry Pi's kernel has it, and in the service "
                "systemd/overlaid-pmic.conf shows it"
            )
        for path in there:
            try:
                self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                self.path = path
                return
            except PermissionError:
                continue
            except OSError as error:
                raise MeterError(f"pmic: {path}: {error.strerror}") from None
        raise not_permitted(there[0])

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def watts(self) -> float:
        """Of all converters together. MeterError when it does not answer as known."""
        return sum_watts(self.ask("pmic_read_adc"))

    def ask(self, command: str) -> str:
        """The answer to a command of vcgencmd."""
        text = command.encode().ljust(TEXT_BYTES, b"\0")
        size = HEAD.size + TEXT_BYTES + END.size
        message = bytearray(HEAD.pack(size, 0, GET_GENCMD_RESULT, 4 + TEXT_BYTES, 0, 0) + text + END.pack(0))
        try:
            ioctl(self._file, MAILBOX_PROPERTY, message, True)
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "")
            raise MeterError(f"pmic: {self.path}: {error.strerror} ({name})") from None
        _, code, _, _, _, failed = HEAD.unpack_from(message)
        answer = (
            bytes(message[HEAD.size : HEAD.size + TEXT_BYTES]).partition(b"\0")[0].decode("ascii", "replace")
        )
        if code != SUCCESS or failed:
            raise MeterError(f"pmic: the firmware refuses {command}: {answer[:80]!r}; update it")
        return answer


def sum_watts(answer: str) -> float:
    """Amperes times volts of every converter that shows both, from lines such as
    ``VDD_CORE_A current(7)=0.92871990A`` and ``VDD_CORE_V volt(15)=0.72097620V``."""
    found = {(name, kind): float(value) for name, kind, value in CONVERTER.findall(answer)}
    currents = [name for name, kind in found if kind == "A"]
    if not currents or any((name, "V") not in found for name in currents):
        raise MeterError(f"pmic: the firmware's answer is not understood: {answer[:80]!r}")
    return sum(found[name, "A"] * found[name, "V"] for name in currents)
