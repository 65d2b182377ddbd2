"""Two clients of one lent FPGA: what each of them sees of the other, and what does not get through."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.devices.fpga_service import fpga, turns
from agent.devices.fpga_service.folders import Place
from agent.devices.fpga_service.fpga import Fpga
from agent.devices.fpga_service.session import Session
from agent.devices.remote_transport import ask_status, open_transport
from agent.errors import DeviceError, OverlayHung, OverlayLoadError, OverlayTaken, RuntimeUnavailable
from agent.hal import OverlayTransport
from agent.overlay.driver import TAKES, Driver, LoadedProgram
from agent.overlay.functional import run_layers
from agent.overlay.program import Segment
from agent.overlay.spec import load_spec
from simulator.overlay.functional import FunctionalTransport
from tests.unit.devices.fpga_lending import Lent, copy_overlay, lending
from tests.unit.overlay import handmade

NPU = load_spec("npu")
SOURCE = handmade.tensor("x", 12, 9, 7)
LAYER, TARGET = handmade.conv(1, SOURCE, 20, (3, 3), pads=(1, 1, 1, 1))
START, RESET, BUSY, DONE = 1, 2, 1, 2


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("npu", "npu-small"):
        copy_overlay(name, tmp_path / "overlays")
    return tmp_path / "overlays"


@pytest.fixture
def opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Lent]]:
    monkeypatch.setattr(turns, "IDLE_S", 0.0)
    with lending(root) as opened:
        yield opened


@pytest.fixture
def clients(root: Path, opened: list[Lent]) -> Iterator[list[OverlayTransport]]:
    clients = [open_transport(root / name) for name in ("npu", "npu", "npu-small")]
    yield clients
    for client in clients:
        client.close()


def load(transport: OverlayTransport, name: str = "npu", batches: bool = False) -> LoadedProgram:
    spec = load_spec(name)
    program = handmade.program(spec, handmade.conv_segment(spec, LAYER, SOURCE, TARGET))
    if batches:
        program = replace(program, inputs=(replace(program.inputs[0], shape=(-1, 12, 9, 7)),))
    return Driver(transport, spec).load(program)


def check(loaded: LoadedProgram, seed: int) -> None:
    """It answers as it must."""
    image = handmade.image(seed, SOURCE)
    [segment] = loaded.program.steps
    outputs = loaded.run(segment, {"x": image[None]}).outputs  # type: ignore[arg-type]
    assert outputs["y"].tolist() == run_layers([LAYER], {"x": image})["y"][None].tolist()


def control(client: OverlayTransport, value: int) -> None:
    client.write32(NPU.register("CONTROL"), value)


def status(client: OverlayTransport) -> int:
    return client.read32(NPU.register("STATUS"))


class Hanging:
    """A core whose chains do not end; ``stops``: but for a reset."""

    def __init__(self, core: Lent, monkeypatch: pytest.MonkeyPatch, *, stops: bool) -> None:
        self.busy, self.stops, self.reloads = False, stops, 0
        self._core, self._read, self._write, self._reload = core, core.read32, core.write32, core.reload
        for name in ("read32", "write32", "reload", "wait"):
            monkeypatch.setattr(core, name, getattr(self, name))

    def read32(self, offset: int) -> int:
        return BUSY if self.busy and offset == NPU.register("STATUS") else self._read(offset)

    def write32(self, offset: int, value: int) -> None:
        if offset == NPU.register("CONTROL"):
            self.busy = bool(value & START) or (self.busy and not self.stops)
        self._write(offset, value)

    def reload(self, folder: Path) -> None:
        self.busy, self.stops, self.reloads = False, True, self.reloads + 1
        self._reload(folder)

    def wait(self, timeout_s: float) -> bool:
        return False


def test_programs_and_overlays_by_turns(clients: list[OverlayTransport], opened: list[Lent]) -> None:
    loaded = [load(client, name) for client, name in zip(clients, ("npu", "npu", "npu-small"), strict=True)]
    for seed, number in enumerate((0, 1, 0, 2, 1, 1, 2, 0)):
        check(loaded[number], seed)
        assert ask_status().overlay == ("npu-small" if number == 2 else "npu")
    assert len(opened) == 1
    assert ask_status().clients == (os.getpid(),) * 3


def test_what_a_client_sees_of_its_core_while_others_run(clients: list[OverlayTransport]) -> None:
    first, second = clients[:2]
    first.write32(NPU.register("WATCHDOG"), 77)
    control(first, START)  # no region: an error
    ended = status(first)
    second.write32(NPU.register("WATCHDOG"), 88)
    control(second, START)
    assert status(first) == ended != 0
    assert [each.read32(NPU.register("WATCHDOG")) for each in (first, second)] == [77, 88]
    with pytest.raises(OverlayTaken, match="another process ran on the FPGA"):
        control(first, START)
    assert first.wait(0.1)  # the first chain's end
    control(first, RESET)
    assert status(first) == 0
    assert first.read32(NPU.register("WATCHDOG")) == NPU.axi.watchdog_cycles
    assert first.read32(NPU.register("ARRAY")) == NPU.lanes
    assert not first.wait(0.05)
    assert status(second) == ended
    control(first, START)
    with pytest.raises(OverlayTaken):
        control(second, START)


@pytest.mark.parametrize("stops", [True, False])
def test_a_chain_that_does_not_end_is_stopped_for_others(
    clients: list[OverlayTransport], opened: list[Lent], monkeypatch: pytest.MonkeyPatch, stops: bool
) -> None:
    monkeypatch.setattr(turns, "CONTESTED_S", 0.1)
    monkeypatch.setattr(fpga, "STOP_S", 0.02)
    check(load(clients[1]), 2)
    with pytest.MonkeyPatch.context() as patch:
        core = Hanging(opened[0], patch, stops=stops)
        control(clients[0], START)
        control(clients[1], RESET)
        reloads = core.reloads
        control(clients[1], START)
        assert core.reloads - reloads == (not stops)
        stopped = "the chain of this process was stopped: it still ran"
        with pytest.raises(OverlayHung, match=stopped):
            clients[0].wait(0.1)
        with pytest.raises(OverlayHung, match=stopped):
            status(clients[0])
        control(clients[0], RESET)
        assert status(clients[0]) == 0
    check(load(clients[1]), 3)


def test_waiting_for_a_turn_is_limited(
    clients: list[OverlayTransport], opened: list[Lent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fpga, "TURN_S", 0.1)
    with pytest.MonkeyPatch.context() as patch:
        Hanging(opened[0], patch, stops=True)
        control(clients[0], START)
        with pytest.raises(
            OverlayHung, match=f"within 0.1 s: process {os.getpid()} runs a chain, 3 share it"
        ):
            control(clients[1], START)
        assert status(clients[0]) == BUSY
        clients[0].close()
        control(clients[1], START)
        assert status(clients[1]) == BUSY


def test_who_waits_gets_its_turn_between_the_samples_of_another_one(
    clients: list[OverlayTransport], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs are fetched after the next sample was started: that must not look like a turn that goes on."""
    monkeypatch.setattr(turns, "IDLE_S", 60.0)
    monkeypatch.setattr(turns, "CONTESTED_S", 60.0)
    monkeypatch.setattr(fpga, "TURN_S", 10.0)
    busy, waiting = load(clients[0], batches=True), load(clients[1])
    [segment] = busy.program.steps
    assert isinstance(segment, Segment)
    images = [handmade.image(seed, SOURCE)[None] for seed in (1, 2)]
    for bank in range(2):
        busy.write(segment, {"x": images[bank]}, bank)
    busy.start(segment, 0)
    answered: list[int] = []

    def ask() -> None:
        check(waiting, 3)
        answered.append(3)

    thread = threading.Thread(target=ask)
    thread.start()
    bank = 0
    while thread.is_alive():
        busy.wait()
        bank = 1 - bank
        busy.start(segment, bank)
    busy.wait()
    thread.join()
    assert answered == [3]
    for number in range(2):
        wanted = run_layers([LAYER], {"x": images[number][0]})["y"][None].tolist()
        assert busy.read(segment, number)[0]["y"].tolist() == wanted


def test_an_overlay_that_changed_is_not_loaded_again(clients: list[OverlayTransport], root: Path) -> None:
    control(clients[0], START)
    text = (root / "npu-small" / "overlay.toml").read_text()
    (root / "npu-small" / "overlay.toml").write_text(text + "\n")
    for wrong in ("has changed since it was opened", "others than its owner"):
        with pytest.raises(OverlayLoadError, match=wrong):
            control(clients[2], START)
        (root / "npu-small" / "overlay.toml").chmod(0o666)
    check(load(clients[1]), 1)


def test_an_overlay_that_cannot_be_loaded_stops_nobody_else(
    clients: list[OverlayTransport], opened: list[Lent]
) -> None:
    first, small = load(clients[0]), load(clients[2], "npu-small")
    check(first, 1)
    with pytest.MonkeyPatch.context() as patch:

        def refuse(folder: Path) -> None:
            if folder.name == "npu-small":
                raise OverlayLoadError("not this one")
            FunctionalTransport.reload(opened[0], folder)

        patch.setattr(opened[0], "reload", refuse)
        with pytest.raises(OverlayLoadError, match="not this one"):
            check(small, 1)
        check(first, 2)
    check(small, 3)


def test_a_driver_does_not_try_for_ever(
    clients: list[OverlayTransport], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, starts = load(clients[0]), 0

    def taken(self: Session) -> None:
        nonlocal starts
        starts += 1
        raise OverlayTaken("by another one")

    with monkeypatch.context() as patch:
        patch.setattr(Session, "_await_turn", taken)
        with pytest.raises(OverlayTaken):
            check(loaded, 1)
    assert starts == TAKES
    check(loaded, 2)


def test_a_transport_that_cannot_be_lent(root: Path) -> None:
    class Plain:
        read32 = write32 = allocate = wait = compute_ends = None
        closed = False

        def close(self) -> None:
            self.closed = True

    plain = Plain()
    lent = Fpga(lambda folder: plain, lambda place: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(RuntimeUnavailable, match="cannot be lent"):
        Session(lent, NPU, Place(root / "npu", "npu", ()), 1, lambda: False)
    assert plain.closed
    assert lent.clients == ()
    with pytest.raises(DeviceError, match="no overlay is loaded"):
        lent.transport.read32(0)
