"""Overlay programs on a simulated board: the real driver's answers at the cycle model's time, and its failures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.devices.cpu import CpuDevice
from agent.errors import ModelLoadError, OverlayHung, OverlayLoadError, RuntimeUnavailable
from agent.fleet.overlays import write_overlay_model
from agent.hal import ModelFile, Session
from agent.overlay.selftest import INPUT, OUTPUT
from agent.overlay.spec import overlay_folder
from agent.placement.planning.candidates import VariantInfo, candidates_for
from agent.types import SELF_TEST, OverlayRef, TensorSpec
from simulator.board import SimBoard, SimDevice, modelled_board
from simulator.cell import MemoryCell
from simulator.clock import EventClock
from simulator.faults import Happening, Timeline
from simulator.physics import Physics
from simulator.profile import load_profile
from simulator.work import count_work
from tests.contract.tiny import npu_double
from tests.unit.simulator.programs import GRAPH, answers, inputs, program
from tests.unit.simulator.small import happening

PROFILE = load_profile("pynq-z2")
FPGA = PROFILE.device("fpga")


def cell(*happenings: Happening) -> MemoryCell:
    return MemoryCell(Physics(PROFILE, Timeline(PROFILE, happenings)), EventClock())


def fpga(memory: MemoryCell) -> SimDevice:
    return SimDevice(memory, "fpga", CpuDevice())


def ask(session: Session) -> float:
    """One sample, answered right; the device's seconds."""
    sample = inputs(1)
    run = session.run({INPUT: sample[0]})
    assert (run.outputs[OUTPUT] == answers(sample)[0]).all()
    return run.device_s


def test_it_says_which_overlays_it_loads(tmp_path: Path) -> None:
    info = SimBoard("pynq-z2", tmp_path, cell()).device("fpga").info
    assert info.overlays == (OverlayRef("npu", 1, 16), OverlayRef("npu-small", 1, 8))
    assert [backend.name for backend in info.backends] == ["npu", SELF_TEST]


def test_a_run_takes_the_cycles_of_the_overlay_and_the_overhead(tmp_path: Path) -> None:
    model = program(tmp_path)
    memory = cell()
    session = fpga(memory).open(model, "npu")
    work = count_work(model.path, "npu")
    assert work.overlay == OverlayRef("npu", 1, 16) and work.beside is None
    assert 0 < work.overlay_s < 1e-3
    expected = FPGA.overhead_us / 1e6 + work.overlay_s
    assert np.mean([ask(session) for _ in range(20)]) == pytest.approx(expected, rel=0.05)  # jitter of 1 %


def test_a_program_with_a_cpu_segment_takes_both_devices(tmp_path: Path) -> None:
    path = tmp_path / "double.npu"
    path.write_bytes(npu_double())
    x, y = (TensorSpec(name, "FP32", (-1, 4)) for name in "xy")
    memory = cell()
    session = fpga(memory).open(ModelFile(path, "npu", (x,), (y,)), "npu")
    before = list(memory.state.busy_s)
    images = np.arange(16, dtype=np.float32).reshape(4, 4)
    run = session.run({"x": images})
    assert run.outputs["y"].tolist() == (2 * images).tolist()
    assert max(run.parts.values()) < run.device_s < sum(run.parts.values())  # samples overlap
    after = dict(zip(("cpu", "fpga"), memory.state.busy_s, strict=True))
    for index, kind in enumerate(("cpu", "fpga")):
        assert after[kind] - before[index] == pytest.approx(run.parts[kind])
    assert run.parts["cpu"] > 4 * PROFILE.device("cpu").overhead_us / 1e6 * 0.9  # jitter
    one = session.run({"x": images[:1]})
    assert one.device_s == pytest.approx(sum(one.parts.values()))


def test_a_program_for_the_small_overlay_takes_longer_and_answers_the_same(tmp_path: Path) -> None:
    times = {}
    for overlay in ("npu", "npu-small"):
        work = count_work(program(tmp_path, overlay).path, "npu")
        times[overlay] = work.overlay_s
        ask(fpga(cell()).open(program(tmp_path, overlay), "npu"))
    assert times["npu-small"] > 1.5 * times["npu"]


def test_switching_overlays_costs_their_load_time(tmp_path: Path) -> None:
    assert FPGA.overlay is not None
    memory = cell()
    device = fpga(memory)
    large = device.open(program(tmp_path), "npu")
    small = device.open(program(tmp_path, "npu-small"), "npu")
    for session, switches in ((large, True), (large, False), (small, True), (large, True)):
        before = memory.clock.now()
        ask(session)
        assert (memory.clock.now() - before > FPGA.overlay.load_s) == switches


def test_an_overlay_that_hangs_fails_the_run_and_the_next_one_works(tmp_path: Path) -> None:
    memory = cell(happening("core-hang", "fpga", 0.5, at_s=10.0, for_s=5.0))
    session = fpga(memory).open(program(tmp_path), "npu")
    ask(session)
    memory.clock.wait_until(11.0)
    with pytest.raises(OverlayHung, match=r"did not end within 0\.5 s"):
        session.run({INPUT: inputs(1)[0]})
    assert memory.clock.now() == pytest.approx(11.5)
    memory.clock.wait_until(16.0)
    ask(session)


def test_what_the_fpga_cannot_run_is_refused_by_name(tmp_path: Path) -> None:
    onnx = ModelFile(tmp_path / "m.onnx", "onnx", GRAPH.inputs, GRAPH.outputs)
    with pytest.raises(RuntimeUnavailable, match="fpga opens npu, not onnx"):
        fpga(cell()).open(onnx, "onnxruntime")
    broken = program(tmp_path)
    broken.path.write_bytes(broken.path.read_bytes()[:-40])
    with pytest.raises(ModelLoadError):
        fpga(cell()).open(broken, "npu")
    with pytest.raises(RuntimeUnavailable, match=r"functional or rtl, not 'verilog'"):
        SimBoard("pynq-z2/verilog", tmp_path)


def test_a_delivered_overlay_is_loaded_and_tested(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    write_overlay_model(overlay_folder("npu"), folder)
    archive = folder / "npu.overlay"
    overlay = ModelFile(archive, "overlay", GRAPH.inputs, GRAPH.outputs)
    session = fpga(cell()).open(overlay, SELF_TEST)
    sample = np.load(folder / "x.npy")[0]
    assert (session.run({INPUT: sample}).outputs[OUTPUT] == np.load(folder / "y.npy")[0]).all()
    model = program(tmp_path)
    ask(fpga(cell()).open(ModelFile(model.path, "npu", model.inputs, model.outputs, overlay=archive), "npu"))


def test_a_delivered_overlay_is_loaded_again_after_another(tmp_path: Path) -> None:
    write_overlay_model(overlay_folder("npu"), tmp_path)
    model = replace(program(tmp_path), overlay=tmp_path / "npu.overlay")
    device = fpga(cell())
    delivered, shipped = device.open(model, "npu"), device.open(program(tmp_path, "npu-small"), "npu")
    del device  # as a worker lets go of it
    for session in (delivered, shipped, delivered):
        ask(session)


def test_a_board_keeps_delivered_overlays_in_its_folder(tmp_path: Path) -> None:
    write_overlay_model(overlay_folder("npu"), tmp_path)
    model = replace(program(tmp_path), overlay=tmp_path / "npu.overlay")
    ask(SimBoard("pynq-z2", tmp_path / "run", cell()).device("fpga").open(model, "npu"))
    assert len(list((tmp_path / "run" / "overlays").glob("*/overlay.toml"))) == 1


def test_an_overlay_that_does_not_load(tmp_path: Path) -> None:
    memory = cell(happening("overlay-load-failure", "fpga"))
    with pytest.raises(OverlayLoadError, match="does not take the overlay npu "):
        fpga(memory).open(program(tmp_path), "npu")


def test_another_version_of_an_overlay_is_another_overlay(tmp_path: Path) -> None:
    assert FPGA.overlay is not None
    folder, model = tmp_path / "npu", tmp_path / "model"
    folder.mkdir()
    model.mkdir()
    text = (overlay_folder("npu") / "overlay.toml").read_text()
    (folder / "overlay.toml").write_text(text.replace("\nversion = 1\n", "\nversion = 2\n"))
    write_overlay_model(folder, model)
    memory = cell()
    device = fpga(memory)
    ask(device.open(program(tmp_path), "npu"))
    before = memory.clock.now()
    device.open(ModelFile(model / "npu.overlay", "overlay", GRAPH.inputs, GRAPH.outputs), SELF_TEST)
    assert memory.clock.now() - before > FPGA.overlay.load_s


@pytest.mark.parametrize("name", ["jetson-orin-nano", "x86-dgpu"])
def test_no_simulated_gpu_runs_programs_and_it_is_said(name: str) -> None:
    program = VariantInfo("npu", "npu", "int8", ("fpga", "gpu", "cpu"), None, OverlayRef("npu", 1, 16))
    found, verdicts = candidates_for([program], modelled_board(load_profile(name)))
    reason = next(verdict.reason for verdict in verdicts if verdict.candidate.device == "gpu")
    assert found == () and reason == "gpu has no runtime for npu; it has onnxruntime (onnx)"
