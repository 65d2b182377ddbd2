"""The board and the releases of every test here."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of this machine's processor, and of pkg_resources
    import pynq
    from pynq.pl_server.device import DeviceMeta

from agent.devices.pynq_transport import drop_metadata
from agent.overlay.spec import SPEC_NAME, overlay_folder
from tests.pynq.board import Board
from tests.pynq.handoff import Design, write_release

QUIET = [  # pynq leaves files open and calls pydantic by names of version 1
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
XCLBINUTIL = """#!/bin/sh
# Of XRT, which is on boards alone: an xclbin that says there is one memory, the processing system's.
cp "{default}" t.xclbin
"""


@pytest.fixture
def xrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one program that pynq starts, found first on PATH; nothing remembered of another test."""
    default = Path(pynq.__file__).parent / "pl_server" / "default.xclbin"
    program = tmp_path / "bin" / "xclbinutil"
    program.parent.mkdir()
    program.write_text(XCLBINUTIL.format(default=default))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    drop_metadata(pynq)
    _forget()


@pytest.fixture(params=["functional", "rtl"])
def simulated(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def board(simulated: str, xrt: None) -> Iterator[Board]:
    """The board that pynq finds."""
    Board.present = Board(simulated)
    yield Board.present
    Board.present.close()
    Board.present = None
    drop_metadata(pynq)


def _forget() -> None:
    """The singletons of a process that knew another board."""
    for cls, name in (
        (pynq.Device, "_devices"),
        (pynq.Device, "_active_device"),
        (pynq.Clocks, "_real_instance"),
    ):
        if name in vars(cls):
            delattr(cls, name)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A copy of the overlay npu with a bitstream for this board."""
    return make_release(tmp_path / "npu", Design("npu"))


def make_release(folder: Path, design: Design) -> Path:
    """``overlay.toml`` and ``release/`` in ``folder``, as Vivado's script leaves them."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(overlay_folder(design.overlay) / SPEC_NAME, folder / SPEC_NAME)
    write_release(folder / "release", design, f"{design.overlay}-pynq-z2")
    return folder


assert DeviceMeta._subclasses[Board._probe_priority_] is Board
