"""Which OpenCL device --device means."""

from __future__ import annotations

import pytest

from agent.cli import opencl_devices
from agent.cli.opencl_devices import choose, find_device
from agent.devices.opencl.platforms import ClDevice
from agent.errors import RuntimeUnavailable, UsageError


def device(
    name: str, kind: str, index: tuple[int, int], dot: bool = False, pci: str | None = None
) -> ClDevice:
    return ClDevice(
        f"Platform {index[0]}", name, kind, "OpenCL 3.0", "1", "V", 1 << 30, 1 << 28, 4, 256, dot, pci, index,  # type: ignore[arg-type]
    )  # fmt: skip


SLOW, QUICK = device("EPYC", "cpu", (0, 0)), device("EPYC", "cpu", (3, 0), dot=True)
CARD = device("u250", "accelerator", (1, 0))
ONE, TWO = (device("Mali-G610", "gpu", (2, n), pci=f"0000:0{n}:00.0") for n in (0, 1))
ALL = [SLOW, CARD, QUICK, TWO, ONE]


@pytest.mark.parametrize(
    ("devices", "wanted", "found"),
    [
        (ALL, None, ONE),
        ([SLOW, CARD], None, CARD),
        ([SLOW, QUICK], None, QUICK),
        (ALL, "U25", CARD),
        (ALL, "00:01:00", TWO),
        (ALL, "platform 0", SLOW),
        (ALL, "0", ONE),
        (ALL, "2", CARD),
        (ALL, "3", QUICK),
    ],
)
def test_a_device_is_found_by_name_number_or_kind(
    devices: list[ClDevice], wanted: str | None, found: ClDevice
) -> None:
    assert choose(devices, wanted) is found


def test_a_whole_name_is_more_than_a_part_of_another() -> None:
    longer = device("u250-es", "accelerator", (1, 1))
    assert choose([CARD, longer], "u250") is CARD


@pytest.mark.parametrize(
    ("wanted", "why"),
    [("mali", "several have"), ("tesla", "none has"), ("5", "no such number"), ("9" * 5000, "no such")],
)
def test_what_names_no_device_or_several_lists_them(wanted: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose(ALL, wanted)
    assert why in str(caught.value)
    assert "0: Mali-G610 (Platform 2, 0000:00:00.0), gpu" in str(caught.value) and "4: EPYC" in str(
        caught.value
    )


def test_without_a_device_the_reasons_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opencl_devices, "find_devices", lambda: ([], ["pip install 'overlaid[opencl]'"]))
    with pytest.raises(RuntimeUnavailable, match=r"no OpenCL device.*overlaid\[opencl\]"):
        find_device(None)
