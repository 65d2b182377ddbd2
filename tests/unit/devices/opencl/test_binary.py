"""Files of built kernels: made, run, and refused for what is wrong with them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.devices.opencl import binary
from agent.devices.opencl.binary import MAGIC, Header, header_of, pack, unpack
from agent.devices.opencl.build import build_program, read_binary, write_binary
from agent.devices.opencl.engine import OpenClEngine
from agent.devices.opencl.platforms import ClDevice, handle, traits_of
from agent.devices.program import self_test
from agent.errors import KernelBuildFailed

HEADER = Header(kernels="0" * 64, platform="Intel FPGA", device="u250", driver="1.2")
COMMAND = "overlaid overlay kernels -o"


@pytest.fixture(scope="module")
def card(cpu: ClDevice) -> ClDevice:
    """PoCL's CPU as a card that compiles nothing."""
    return replace(cpu, kind="accelerator")


@pytest.fixture(scope="module")
def made(context: Any, cpu: ClDevice, card: ClDevice, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels for it, as PoCL's binary."""
    path, traits = tmp_path_factory.mktemp("binary") / "card.clbin", traits_of(card)
    write_binary(path, build_program(context, handle(cpu), cpu, traits, None), card, traits)
    return path


def test_a_program_runs_from_a_binary_on_a_device_that_compiles_nothing(card: ClDevice, made: Path) -> None:
    self_test(lambda program: OpenClEngine(program, card, 1, binary=made))


def test_what_is_written_is_read(card: ClDevice, made: Path) -> None:
    traits = traits_of(card)
    assert unpack(made.read_bytes(), header_of(card, traits), "it") == read_binary(made, card, traits) != b""


def test_a_binary_of_kernels_for_a_cpu_is_none_for_a_card(cpu: ClDevice, made: Path) -> None:
    with pytest.raises(KernelBuildFailed, match=f"built in another way.*{COMMAND}"):
        read_binary(made, cpu, traits_of(cpu))


@given(st.binary(max_size=200))
def test_any_binary_comes_back(data: bytes) -> None:
    assert unpack(pack(HEADER, data), HEADER, "it") == data


@given(st.data())
def test_no_damage_goes_unseen(data: st.DataObject) -> None:
    whole = pack(HEADER, b"kernels")
    if data.draw(st.booleans()):
        damaged = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        at = data.draw(st.integers(0, len(whole) - 1))
        damaged = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    with pytest.raises(KernelBuildFailed, match=COMMAND):
        unpack(damaged, HEADER, "it")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"device": "u50"}, r"card is for u250 \(Intel FPGA\), and here is u50 \(Intel FPGA\)"),
        ({"platform": "Xilinx"}, r"card is for u250 \(Intel FPGA\), and here is u250 \(Xilinx\)"),
        ({"driver": "1.3"}, r"card is for driver 1\.2 of u250, and here is 1\.3"),
        ({"kernels": "1" * 64}, "card holds the kernels of another version of overlaid"),
    ],
)
def test_a_binary_for_something_else_is_named_as_such(change: dict[str, str], said: str) -> None:
    with pytest.raises(KernelBuildFailed, match=f"{said}.*{COMMAND}"):
        unpack(pack(HEADER, b"x"), HEADER.model_copy(update=change), "card")


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b'{"version":2}', "corrupt"),
        (b"\xff", "corrupt"),
        (b"[" * 4000, "corrupt"),
        (b" " * (binary.MAX_HEADER_BYTES + 1), "header has 4097 bytes"),
    ],
)
def test_a_header_that_is_none(head: bytes, said: str) -> None:
    body = MAGIC + len(head).to_bytes(4, "little") + head
    with pytest.raises(KernelBuildFailed, match=said):
        unpack(body + hashlib.sha256(body).digest(), HEADER, "it")


def test_a_header_that_is_longer_than_the_file() -> None:
    body = MAGIC + (4000).to_bytes(4, "little")
    with pytest.raises(KernelBuildFailed, match="header has 4000 bytes"):
        unpack(body + hashlib.sha256(body).digest(), HEADER, "it")


def no_file(path: Path, _good: bytes) -> None: ...


def a_folder(path: Path, _good: bytes) -> None:
    path.mkdir()


def a_pipe(path: Path, _good: bytes) -> None:
    os.mkfifo(path)


def something_else(path: Path, _good: bytes) -> None:
    path.write_bytes(b"\x7fELF" + bytes(100))


def half(path: Path, good: bytes) -> None:
    path.write_bytes(good[: len(good) // 2])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (no_file, "cannot be read"),
        (a_folder, "cannot be read"),
        (a_pipe, "no kernels"),
        (something_else, "no kernels"),
        (half, "truncated"),
    ],
)
def test_files_that_hold_no_kernels(
    context: Any, card: ClDevice, made: Path, tmp_path: Path, make: Callable[[Path, bytes], None], said: str
) -> None:
    path = tmp_path / "bad.clbin"
    make(path, made.read_bytes())
    with pytest.raises(KernelBuildFailed, match=f"{path}.*{said}.*{COMMAND}"):
        build_program(context, handle(card), card, traits_of(card), None, path)


def test_a_binary_that_the_driver_does_not_take(context: Any, cpu: ClDevice, tmp_path: Path) -> None:
    path = tmp_path / "made-up.clbin"
    noise = np.random.default_rng(7).bytes(5000)
    path.write_bytes(pack(header_of(cpu, traits_of(cpu)), noise))
    with pytest.raises(KernelBuildFailed, match=f"does not take the kernels in {path}.*{COMMAND}"):
        build_program(context, handle(cpu), cpu, traits_of(cpu), None, path)


def test_a_file_that_cannot_be_written(context: Any, cpu: ClDevice, tmp_path: Path) -> None:
    program = build_program(context, handle(cpu), cpu, traits_of(cpu), None)
    with pytest.raises(KernelBuildFailed, match="cannot be written"):
        write_binary(tmp_path / "none" / "card.clbin", program, cpu, traits_of(cpu))
