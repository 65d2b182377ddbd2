"""FPGA cards: PoCL plays one, which takes the kernels as a binary and builds none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyopencl
import pytest

from agent.devices.opencl import build, cards, engine, session
from agent.devices.opencl.binary import header_of, pack
from agent.devices.opencl.cards import Card, find_cards, look, open_card
from agent.devices.opencl.platforms import ClDevice, find_devices, handle, traits_of
from agent.devices.program import open_functional
from agent.devices.proving import Outcome, prove_in_processes
from agent.errors import DeviceLost, KernelBuildFailed, RuntimeUnavailable
from agent.hal import ModelFile
from agent.overlay.compiler import compile_graph
from agent.overlay.programfile import write_program
from agent.overlay.selftest import INPUT, OUTPUT, self_test_graph
from agent.overlay.spec import load_spec
from agent.types import BackendInfo, DeviceInfo, to_jsonable

BINARY = "card.clbin"


@pytest.fixture(scope="module")
def cpu() -> ClDevice:
    """Not before the tests run: drivers are looked for once in a process."""
    return next(device for device in find_devices()[0] if device.runtime.startswith("PoCL "))


@pytest.fixture
def card(cpu: ClDevice, monkeypatch: pytest.MonkeyPatch) -> ClDevice:
    """What asks OpenCL for it gets PoCL's CPU."""
    made = replace(cpu, kind="accelerator", name="u250")
    monkeypatch.setattr(engine, "handle", lambda device: handle(cpu if device == made else device))
    monkeypatch.setattr(cards, "find_devices", lambda: ([cpu, made], []))
    return made


@pytest.fixture(scope="module")
def built(cpu: ClDevice) -> bytes:
    """What a vendor's compiler would have made."""
    whole = handle(cpu)
    traits = traits_of(replace(cpu, kind="accelerator"))
    program = build.build_program(pyopencl.Context([whole]), whole, cpu, traits, None)
    return bytes(program.binaries[0])


@pytest.fixture
def binaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, card: ClDevice, built: bytes) -> Path:
    """A folder with the card's binary, and one of another card."""
    monkeypatch.setenv(cards.VARIABLE, str(tmp_path))
    (tmp_path / BINARY).write_bytes(packed(card, built))
    (tmp_path / "a.clbin").write_bytes(packed(replace(card, name="u50"), built))
    return tmp_path


def packed(device: ClDevice, binary: bytes) -> bytes:
    return pack(header_of(device, traits_of(device)), binary)


def program(folder: Path, overlay: str = "npu") -> ModelFile:
    made = compile_graph(self_test_graph(), load_spec(overlay))
    path = folder / "selftest.npu"
    path.write_bytes(write_program(made))
    return ModelFile(path, "npu", made.inputs, made.outputs)


def test_a_card_is_offered_with_its_binary(binaries: Path, cpu: ClDevice, card: ClDevice) -> None:
    found, problems = look([cpu, card], binaries)
    assert found == [Card("card", card, binaries / BINARY)] and problems == []
    info = found[0].info
    assert (info.id, info.kind, info.overlays) == ("card", "fpga", ())
    assert info.backends == (BackendInfo("opencl", card.runtime, ("npu",)),)


@pytest.mark.parametrize("overlay", ["npu", "npu-small"])
def test_a_card_runs_programs_of_any_overlay(binaries: Path, overlay: str) -> None:
    model = program(binaries, overlay)
    x = np.random.default_rng(1).integers(-128, 128, (1, 3, 16, 16)).astype(np.int8)
    found = []
    for opened in (open_card("card").open(model, "opencl"), open_functional(model)):
        run = opened.run({INPUT: x})
        opened.close()
        found.append(run.outputs[OUTPUT].tobytes())
        assert run.parts == {}
    assert found[0] == found[1]


def test_a_card_proves_itself_by_the_self_test(binaries: Path, card: ClDevice) -> None:
    assert session.prove(card, binaries / BINARY) == card.runtime


def test_without_a_binary_it_is_told_how_to_make_one(tmp_path: Path, card: ClDevice) -> None:
    found, (problem,) = look([card], tmp_path)
    assert found == [] and problem.startswith("card: u250 (")
    assert f"{tmp_path} has none for it" in problem
    assert f"overlaid overlay kernels --device u250 --pack BUILT -o {tmp_path}/{BINARY}" in problem


def test_a_binary_that_does_not_fit_is_named(binaries: Path, card: ClDevice) -> None:
    (binaries / BINARY).write_bytes(b"garbage")
    found, (problem,) = look([card], binaries)
    assert found == []
    assert "a.clbin is for u50" in problem and "card.clbin holds no kernels of overlaid" in problem
    with pytest.raises(RuntimeUnavailable, match=r"card: .*card\.clbin holds no kernels"):
        open_card("card")


def test_a_binary_that_the_driver_does_not_take(binaries: Path, card: ClDevice) -> None:
    (binaries / BINARY).write_bytes(packed(card, b"\x7fELF of something else"))
    with pytest.raises(KernelBuildFailed, match="does not take the kernels in"):
        open_card("card").open(program(binaries), "opencl")


def test_cards_keep_their_numbers_when_one_has_no_binary(
    binaries: Path, cpu: ClDevice, card: ClDevice
) -> None:
    found, (problem,) = look([replace(card, name="first"), cpu, card], binaries)
    assert [each.id for each in found] == ["card1"] and problem.startswith("card0: ")


def test_a_card_that_is_gone(binaries: Path, monkeypatch: pytest.MonkeyPatch, cpu: ClDevice) -> None:
    monkeypatch.setattr(cards, "find_devices", lambda: ([cpu], []))
    with pytest.raises(DeviceLost, match="no FPGA card card"):
        open_card("card")


@pytest.mark.parametrize(("format", "backend"), [("onnx", "opencl"), ("npu", "npu")])
def test_what_a_card_does_not_open(binaries: Path, format: str, backend: str) -> None:
    model = replace(program(binaries), format=format)
    with pytest.raises(RuntimeUnavailable, match="card opens npu by opencl"):
        open_card("card").open(model, backend)


def test_this_machine_has_no_card() -> None:
    """In processes of their own, without what this test plays."""
    looked = prove_in_processes({"look": ("agent.devices.opencl.cards",)}, 20.0)["look"]
    assert looked == Outcome(json.dumps({"cards": [], "problems": []}))
    assert find_cards() == ([], [])


def test_cards_are_listed_once_they_are_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    infos = [
        DeviceInfo(f"card{n}", "fpga", "u250", (BackendInfo("opencl", "XRT 2", ("npu",)),)) for n in (0, 1)
    ]
    told = json.dumps({"cards": [to_jsonable(info) for info in infos], "problems": ["card2: no binary"]})
    outcomes = {"look": Outcome(told), "card0": Outcome(problem="crashed"), "card1": Outcome("XRT 2")}

    def prove(commands: Any, timeout_s: float) -> dict[str, Outcome]:
        assert timeout_s > 0
        return {name: outcomes[name] for name in commands}

    monkeypatch.setattr(cards, "prove_in_processes", prove)
    assert find_cards() == ([infos[1]], ["card2: no binary", "card0: crashed"])
    outcomes["look"] = Outcome(problem="crashed with SIGSEGV")
    assert find_cards() == ([], [])
