"""A simulated board as the node sees it. What every device promises is in tests/contract/test_device.py."""

from __future__ import annotations

import errno
import logging
import math
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.devices.board import open_board
from agent.devices.cpu import CpuDevice, Proof
from agent.errors import (
    ConfigError,
    DeviceLost,
    DmaTimeout,
    InferenceError,
    MeterError,
    ModelLoadError,
    OverlayLoadError,
    RuntimeUnavailable,
)
from agent.hal import Board, ModelFile, PowerMeter, Session
from agent.types import TensorSpec
from simulator.board import SimBoard, SimDevice, SimMeter, modelled_board
from simulator.cell import Cell, MemoryCell, SharedCell
from simulator.clock import EventClock, RealClock
from simulator.faultfile import NAME, FaultFile
from simulator.faults import Happening
from simulator.physics import NO_OVERLAY, BoardState
from simulator.profile import BoardProfile, Rail
from simulator.work import Work
from tests.contract.tiny import onnx_double
from tests.unit.simulator.small import CPU, FPGA, GPU, IDLE_W, happening, laws, small_board

X, Y = TensorSpec("x", "FP32", (-1, 4)), TensorSpec("y", "FP32", (-1, 4))
ONES = {"x": np.ones((1, 4), np.float32)}
OVERHEAD_S = 0.0005  # of the small board's fpga
RUN_S = OVERHEAD_S + 32 / 1e9  # 16 bytes in and out


def memory(*happenings: Happening, profile: BoardProfile | None = None) -> MemoryCell:
    return MemoryCell(laws(*happenings, profile=profile), EventClock())


def board(cell: Cell, folder: Path = Path()) -> SimBoard:
    return SimBoard("small", folder, cell)


def look(cell: Cell) -> BoardState:
    with cell.update() as moment:
        return moment.state


@pytest.fixture
def model(tmp_path: Path) -> ModelFile:
    path = tmp_path / "double.onnx"
    path.write_bytes(onnx_double())
    return ModelFile(path, "onnx", (X,), (Y,))


def load(cell: Cell, device: str, model: ModelFile) -> Session:
    return SimDevice(cell, device, CpuDevice()).open(model, "onnxruntime")


# -- the board ---------------------------------------------------------------------------------------------------------


def test_is_a_board_that_is_found_by_name(tmp_path: Path) -> None:
    found: Board = open_board("sim:rpi5", tmp_path)
    meters: Sequence[PowerMeter] = found.meters()
    assert [(meter.rail, meter.tag) for meter in meters] == [("pmic", "simulated")]
    with pytest.raises(RuntimeUnavailable, match=r"there is no simulated board 'rpi6'; there are .*rpi5"):
        open_board("sim:rpi6", tmp_path)
    with pytest.raises(RuntimeUnavailable, match="there is no simulated board ''"):
        open_board("sim:", tmp_path)


def test_the_daemon_stays_light(tmp_path: Path) -> None:
    """What the daemon does with a board imports neither numpy nor a runtime nor what reads models."""
    code = (
        "import sys; from pathlib import Path; from agent.devices.board import open_board;"
        f"board = open_board('sim:kv260', Path({str(tmp_path)!r}));"
        "[meter.joules() for meter in board.meters()]; board.device('fpga'); board.wall_time(); board.before_write(9);"
        "heavy = ('numpy', 'onnx', 'onnxruntime', 'ai_edge_litert', 'simulator.work', 'agent.devices.tensors');"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_cpu_by_opencl_is_no_part_of_a_profile(model: ModelFile) -> None:
    """Neither looked for, nor missed, nor opened: the profile's speeds are those of other runtimes."""
    simulated = board(memory())
    told = simulated.describe()
    assert "opencl" not in {backend.name for device in told.devices for backend in device.backends}
    assert not [problem for problem in told.problems if problem.startswith("opencl")]
    with pytest.raises(RuntimeUnavailable, match="no backend 'opencl'"):
        simulated.device("cpu").open(model, "opencl")


def test_describes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        CpuDevice, "proof", Proof(modelled_board(small_board()).devices[0].backends, ("litert: no wheel",))
    )
    told = board(memory()).describe()
    assert (told.name, told.simulated, told.meters) == ("sim:small", True, ("total", "card"))
    assert [(d.id, d.kind, d.simulated, [b.name for b in d.backends]) for d in told.devices] == [
        ("cpu", "cpu", True, ["onnxruntime", "litert"]),
        ("gpu", "gpu", True, ["onnxruntime"]),
        ("fpga", "fpga", True, ["onnxruntime"]),
    ]
    assert told.problems == ("litert: no wheel",)
    assert "10 W at work, 3 W with a model, 1 W idle" in told.devices[GPU].note
    assert told.devices[FPGA].note.endswith("0.75 s and 1.5 J to load an overlay")


def test_a_lost_device_and_missing_sensors_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CpuDevice, "proof", Proof((), ()))
    told = board(memory(happening("device-lost", "gpu"), profile=small_board(rails=()))).describe()
    assert [device.id for device in told.devices] == ["cpu", "gpu", "fpga"]  # it may come back
    assert told.problems == (
        "gpu: lost when it was looked for (simulated)",
        "no power sensor: energy is missing and placement goes by latency",
    )


def test_a_device_that_it_has_not() -> None:
    with pytest.raises(RuntimeUnavailable, match="no device 'npu' on this board; it has: cpu, gpu, fpga"):
        board(memory()).device("npu")


def test_a_clock_that_jumps() -> None:
    cell = memory(happening("clock-jump", "", -3600.0, at_s=5.0, for_s=5.0))
    found = board(cell)
    assert found.wall_time() == pytest.approx(time.time(), abs=60)
    cell.clock.wait_until(5.0)
    assert found.wall_time() == pytest.approx(time.time() - 3600, abs=60)
    cell.clock.wait_until(10.0)
    assert found.wall_time() == pytest.approx(time.time(), abs=60)


def test_a_full_disk() -> None:
    cell = memory(happening("disk-full", at_s=1.0, for_s=1.0))
    board(cell).before_write(1 << 40)
    cell.clock.wait_until(1.0)
    with pytest.raises(OSError, match="No space left on device") as caught:
        board(cell).before_write(0)
    assert caught.value.errno == errno.ENOSPC
    cell.clock.wait_until(2.0)
    board(cell).before_write(1)


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What is slept instead of sleeping."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


def test_a_slow_disk_takes_its_time(naps: list[float]) -> None:
    board(memory(happening("disk-slow", "", 2.0))).before_write(1_500_000)
    assert sum(naps) == pytest.approx(0.75)


def test_a_slow_disk_is_waited_for_only_while_it_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = memory(happening("disk-slow", "", 0.001, for_s=3.0))
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        cell.clock.wait_until(cell.clock.now() + seconds)

    monkeypatch.setattr(time, "sleep", sleep)
    board(cell).before_write(1_000_000_000)  # at that rate, 11 days
    assert sum(slept) == pytest.approx(3.0, abs=0.2)


def test_a_disk_that_fills_up_amid_a_slow_write(naps: list[float]) -> None:
    cell = memory(happening("disk-slow", "", 1.0), happening("disk-full", at_s=1.0))
    cell.clock.wait_until(1.0)
    with pytest.raises(OSError, match="No space left"):
        board(cell).before_write(1_000_000)
    assert naps == []


def test_a_broken_faults_file_does_not_stop_the_daemon(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = SimBoard("kv260", tmp_path)
    (tmp_path / NAME).write_text("{")
    with caplog.at_level(logging.WARNING, "simulator"):
        found.before_write(1)
        assert found.wall_time() == pytest.approx(time.time(), abs=60)
        assert [meter.joules() for meter in found.meters()] == [0.0]
    assert len(caplog.records) == 1
    with pytest.raises(ConfigError, match="remove it to clear"):
        FaultFile(tmp_path, found.profile).read()  # the command that asks is told


# -- devices -----------------------------------------------------------------------------------------------------------


def test_loading_takes_its_time_and_energy(model: ModelFile) -> None:
    cell = memory()
    session = load(cell, "fpga", model)
    assert cell.clock.now() == pytest.approx(0.75 + 0.25)  # overlay, model
    state = look(cell)
    assert (state.overlay[FPGA], state.held[FPGA]) == (0, 1)
    assert state.device_j[FPGA] == pytest.approx(0.2 * 1.0 + 1.5 + 0.25 * 1.0)
    load(cell, "fpga", model)
    assert cell.clock.now() == pytest.approx(1.0 + 0.25)  # the overlay is there
    session.close()
    session.close()
    assert look(cell).held[FPGA] == 1


def test_a_run_takes_the_profile_s_time_and_energy(model: ModelFile) -> None:
    cell = memory()
    session = load(cell, "fpga", model)
    before_j, begun = look(cell).device_j[FPGA], cell.clock.now()
    done = session.run(ONES)
    assert done.outputs["y"].tolist() == [[2, 2, 2, 2]]
    assert done.device_s == pytest.approx(RUN_S)
    assert cell.clock.now() == pytest.approx(begun + RUN_S)
    assert look(cell).device_j[FPGA] - before_j == pytest.approx(RUN_S * (0.2 + 0.3 + 1.0))
    batch = session.run({"x": np.ones((1000, 4), np.float32)})
    assert batch.device_s == pytest.approx(OVERHEAD_S + 1000 * 32e-9)


def test_a_run_is_held_back_in_real_time(tmp_path: Path, model: ModelFile) -> None:
    """Two sessions of one device wait for each other; device time is each one's own."""
    slow = small_board().devices[FPGA].model_copy(update={"overhead_us": 20_000.0, "load_s": 0.0})
    profile = small_board(devices=(*small_board().devices[:FPGA], slow))
    cell = SharedCell(tmp_path, profile, RealClock())
    sessions = [load(cell, "fpga", model) for _ in range(2)]
    started = time.monotonic()
    runs: list[Any] = []
    threads = [threading.Thread(target=lambda s=s: runs.append(s.run(ONES))) for s in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - started >= 0.04
    assert [run.device_s for run in runs] == pytest.approx([0.02, 0.02], rel=1e-3)
    assert sorted(run.wall_s >= 0.02 for run in runs) == [True, True]


def test_a_model_that_the_device_cannot_take(model: ModelFile) -> None:
    device = SimDevice(memory(), "fpga", CpuDevice())
    with pytest.raises(ModelLoadError, match="the model moves 200 MB, fpga has 100 MB"):
        device.begin_load(Work(1, 200_000_000, "int8"))
    with pytest.raises(ModelLoadError, match="fpga computes in int8; the model is fp32: quantise it"):
        device.begin_load(Work(1, 1, "fp32"))
    with pytest.raises(RuntimeUnavailable, match="fpga opens onnx, not tflite"):
        device.open(ModelFile(model.path, "tflite", (X,), (Y,)), "litert")


def test_a_device_that_is_lost(model: ModelFile) -> None:
    cell = memory(happening("device-lost", "cpu", at_s=10.0, for_s=5.0))
    session = load(cell, "cpu", model)
    cell.clock.wait_until(10.0)
    with pytest.raises(DeviceLost, match=r"cpu of small does not answer \(simulated\)"):
        session.run(ONES)
    with pytest.raises(DeviceLost, match="cpu of small"):
        load(cell, "cpu", model)
    assert look(cell).runs[CPU] == 0
    load(cell, "gpu", model)
    cell.clock.wait_until(15.0)
    assert session.run(ONES).device_s > 0


@pytest.mark.parametrize("for_s", [None, 0.0004])
def test_a_device_that_is_lost_during_a_run(model: ModelFile, for_s: float | None) -> None:
    """Even when it is back before the run would have ended."""
    cell = memory(happening("device-lost", "cpu", at_s=10.0005, for_s=for_s))
    session = load(cell, "cpu", model)
    cell.clock.wait_until(10.0)
    with pytest.raises(DeviceLost):
        session.run(ONES)  # 1 ms


def test_a_device_that_is_lost_while_a_model_is_loaded(model: ModelFile) -> None:
    cell = memory(happening("device-lost", "cpu", at_s=0.25, for_s=0.1))
    with pytest.raises(DeviceLost):
        load(cell, "cpu", model)
    assert look(cell).held[CPU] == 0


def test_an_overlay_that_does_not_load(model: ModelFile) -> None:
    cell = memory(happening("overlay-load-failure", "fpga", for_s=10.0))
    with pytest.raises(
        OverlayLoadError, match=r"fpga does not take the overlay npu \(simulated\); load it again"
    ):
        load(cell, "fpga", model)
    assert look(cell).overlay[FPGA] == NO_OVERLAY
    cell.clock.wait_until(10.0)
    assert load(cell, "fpga", model).run(ONES).device_s > 0


def test_transfers_that_do_not_end(model: ModelFile) -> None:
    cell = memory(happening("dma-timeout", "fpga", 0.5, at_s=10.0, for_s=10.0))
    session = load(cell, "fpga", model)
    assert session.run(ONES).device_s > 0
    cell.clock.wait_until(10.0)
    with pytest.raises(DmaTimeout, match=r"a transfer to fpga did not end within 0.5 s \(simulated\)"):
        session.run(ONES)
    assert cell.clock.now() == pytest.approx(10.5)
    cell.clock.wait_until(20.0)
    assert session.run(ONES).device_s == pytest.approx(RUN_S)


def test_a_brown_out_fails_runs_and_loses_the_overlay(model: ModelFile) -> None:
    """Afterwards the first run loads it again, which takes its time."""
    cell = memory(
        happening("brown-out", at_s=10.0, for_s=5.0),
        happening("overlay-load-failure", "fpga", at_s=15.0, for_s=1.0),
    )
    session = load(cell, "fpga", model)
    cell.clock.wait_until(10.0)
    with pytest.raises(DeviceLost):
        session.run(ONES)
    joules = sum(look(cell).device_j) + look(cell).base_j
    cell.clock.wait_until(15.0)
    assert sum(look(cell).device_j) + look(cell).base_j == joules
    with pytest.raises(OverlayLoadError):
        session.run(ONES)
    cell.clock.wait_until(16.0)
    assert session.run(ONES).device_s == pytest.approx(RUN_S)
    assert cell.clock.now() == pytest.approx(16.0 + 0.75 + RUN_S)
    session.run(ONES)
    assert cell.clock.now() == pytest.approx(16.0 + 0.75 + 2 * RUN_S)


def test_a_throttled_and_shared_device_is_slower(model: ModelFile) -> None:
    cell = memory(happening("throttle", "fpga", 0.5), happening("co-tenant", "fpga", 0.75))
    assert load(cell, "fpga", model).run(ONES).device_s == pytest.approx(8 * RUN_S)


def test_a_closed_session_takes_no_time(model: ModelFile) -> None:
    cell = memory()
    session = load(cell, "cpu", model)
    session.close()
    before = look(cell).runs[CPU], cell.clock.now()
    with pytest.raises(InferenceError, match="the session is closed; open the model again"):
        session.run(ONES)
    assert (look(cell).runs[CPU], cell.clock.now()) == before


# -- meters ------------------------------------------------------------------------------------------------------------


def test_a_meter_shows_steps_of_its_own_period() -> None:
    """total: averages over 0.1 s in steps of 0.1 W, of 3.7 W."""
    cell = memory()
    meter = board(cell).meters()[0]
    assert meter.joules() == 0.0
    cell.clock.wait_until(0.09)
    assert meter.joules() == 0.0  # not converted yet
    cell.clock.wait_until(0.1)
    assert meter.joules() == pytest.approx(0.37)
    with cell.update() as moment:
        moment.physics.load(moment.state, FPGA, 0.01, 0.01 * 2.6, moment.now)  # 0.26 W more over the period
    cell.clock.wait_until(0.19)
    assert meter.joules() == pytest.approx(0.37)
    cell.clock.wait_until(0.2)
    assert meter.joules() == pytest.approx(0.37 + 0.40)  # 3.96 W are shown as 4.0 W


def test_a_meter_sees_its_own_rail() -> None:
    cell = memory()
    total, card = board(cell).meters()
    assert (total.joules(), card.joules()) == (0.0, 0.0)
    cell.clock.wait_until(100.0)
    assert total.joules() == pytest.approx(100 * IDLE_W)
    assert card.joules() == pytest.approx(100.0)


@pytest.mark.parametrize("every_s", [0.013, 0.1, 0.7])
def test_a_meter_is_right_in_the_long_run(every_s: float) -> None:
    """Within half a step of watts, and it never decreases."""
    profile = small_board(jitter=0.2)
    cell = memory(profile=profile)
    meter, last_j, shown_s = board(cell).meters()[0], 0.0, 0.0
    assert meter.joules() == 0.0
    start = look(cell)
    start_j = start.base_j + sum(start.device_j)
    for step in range(1, 1000):
        cell.clock.wait_until(every_s * step)
        with cell.update() as moment:
            for device in (CPU, GPU):
                moment.physics.run(moment.state, device, 0.3 * every_s * (step % 3), moment.now)
        now_j = meter.joules()
        assert now_j >= last_j
        if now_j > last_j:
            last_j, shown_s = now_j, cell.clock.now()
            state = look(cell)
            true_j = state.base_j + sum(state.device_j) - start_j
            assert abs(last_j - true_j) <= 0.05 * shown_s + 1e-9
    assert shown_s > 0.9 * cell.clock.now()


def test_a_sensor_that_is_missing() -> None:
    cell = memory(happening("sensor-missing", "card", at_s=10.0, for_s=10.0))
    total, card = board(cell).meters()
    assert (total.joules(), card.joules()) == (0.0, 0.0)
    cell.clock.wait_until(10.0)
    with pytest.raises(MeterError, match=r"card does not answer \(simulated\)"):
        card.joules()
    assert total.joules() == pytest.approx(10 * IDLE_W)
    cell.clock.wait_until(30.0)
    assert card.joules() == pytest.approx(30.0)  # the board's energy went on


def test_a_sensor_that_shows_nonsense() -> None:
    """NaN, negative and huge values, the same ones each time."""

    def readings() -> list[float]:
        cell = memory(happening("sensor-nonsense", "card", at_s=1.0, for_s=9.0))
        total, card = board(cell).meters()
        total.joules()
        card.joules()
        cell.clock.wait_until(1.0)
        found = [card.joules() for _ in range(30)]
        cell.clock.wait_until(10.0)
        assert total.joules() == pytest.approx(10 * IDLE_W)
        return [*found, card.joules()]

    *wild, after = readings()
    assert after == pytest.approx(10.0)
    assert any(math.isnan(value) for value in wild)
    assert any(value < 0 for value in wild)
    assert any(value > 1e8 for value in wild)
    assert all(math.isnan(value) or value < 0 or value > 1e8 for value in wild)
    assert str(readings()[:-1]) == str(wild)


def test_a_brown_out_takes_the_sensors() -> None:
    cell = memory(happening("brown-out", at_s=1.0, for_s=1.0))
    meter = board(cell).meters()[0]
    assert meter.joules() == 0.0
    cell.clock.wait_until(1.0)
    with pytest.raises(MeterError):
        meter.joules()
    cell.clock.wait_until(3.0)
    assert meter.joules() == pytest.approx(2 * IDLE_W, abs=0.05 * 3)


def test_a_meter_of_a_board_that_started_anew(tmp_path: Path) -> None:
    """Its state was lost: the meter goes on from what it showed."""
    clock = EventClock(100.0)
    rail = Rail(name="total", measures=("base",), resolution_w=0.1, rate_hz=10.0)
    meter = SimMeter(SharedCell(tmp_path, small_board(rails=(rail,)), clock), 0)
    assert meter.joules() == 0.0
    clock.wait_until(110.0)
    assert meter.joules() == pytest.approx(20.0)
    (tmp_path / "board.state").write_bytes(b"")
    clock.wait_until(111.0)
    assert meter.joules() == pytest.approx(20.0)
    clock.wait_until(116.0)
    assert meter.joules() == pytest.approx(30.0)


def test_a_meter_whose_state_cannot_be_read(tmp_path: Path) -> None:
    meter = SimMeter(SharedCell(tmp_path / "none", small_board(), RealClock()), 0)
    with pytest.raises(MeterError, match=r"total: .*board.state: No such file or directory"):
        meter.joules()
