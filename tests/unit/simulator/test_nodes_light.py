"""Workers that are no processes: the modelled time passes, golden vectors are computed once, faults are told."""

from __future__ import annotations

import asyncio
import socket
import statistics
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.devices.cpu import CpuDevice
from agent.errors import (
    DeviceLost,
    DmaTimeout,
    GoldenMismatch,
    ModelLoadError,
    OverlaidError,
    OverlayHung,
    OverlayLoadError,
    RuntimeUnavailable,
)
from agent.hal import ModelFile, Session
from agent.serving.processes.process import Worker
from agent.serving.spec import Golden, WorkerSpec
from agent.types import Candidate, TensorSpec
from simulator.cell import SharedCell
from simulator.clock import RealClock
from simulator.faultfile import FaultFile
from simulator.faults import Fault, Happening
from simulator.nodes import light, truth
from simulator.nodes.light import light_workers
from simulator.nodes.truth import Truth
from simulator.profile import load_profile
from tests.contract.tiny import npu_double, onnx_double
from tests.unit.simulator.programs import answers, inputs, program

BOARD = load_profile("x86-dgpu")
CPU = BOARD.device("cpu")
X, Y = TensorSpec("x", "FP32", (-1, 4)), TensorSpec("y", "FP32", (-1, 4))


class Lab:
    """One node's folder and its workers."""

    def __init__(self, folder: Path, board: str = BOARD.name) -> None:
        self.folder, self.board = folder, load_profile(board)
        self.model = folder / "double.onnx"
        self.model.write_bytes(onnx_double())
        self.x, self.y = folder / "x", folder / "y"
        self.x.write_bytes(np.arange(8, dtype="<f4").tobytes())
        self.y.write_bytes((np.arange(8, dtype="<f4") * 2).tobytes())
        self.cell = SharedCell(folder, self.board, RealClock())
        self.told: list[OverlaidError] = []
        self.make = light_workers(Truth())

    def worker(self, device: str = "cpu", digest: str = "a" * 64) -> Worker:
        spec = WorkerSpec(
            "double", "1.0.0", digest, f"sim:{self.board.name}", self.folder, Candidate("fp32", "onnxruntime", device),
            ModelFile(self.model, "onnx", (X,), (Y,)), Golden(2, {"x": self.x}, {"y": self.y}, 1e-6, 0.0), 1 << 20,
        )  # fmt: skip
        return self._made(spec)

    def program(self) -> Worker:
        """An overlay program on the FPGA."""
        samples = inputs()
        files = {"x": samples, "y": answers(samples)}
        for name, array in files.items():
            (self.folder / f"program-{name}").write_bytes(array.tobytes())
        paths = {name: self.folder / f"program-{name}" for name in files}
        golden = Golden(len(samples), {"x": paths["x"]}, {"y": paths["y"]}, 0.0, 0.0)
        return self._made(
            WorkerSpec(
                "selftest", "1", "b" * 64, f"sim:{self.board.name}", self.folder, Candidate("npu", "npu", "fpga"),
                program(self.folder), golden, 1 << 20,
            )
        )  # fmt: skip

    def _made(self, spec: WorkerSpec) -> Worker:
        worker = self.make(spec, lambda *_: None, lambda *_: None)
        worker.on_unwell = lambda _, error: self.told.append(error)
        return worker

    def inject(self, kind: str, target: str = "cpu", value: float | None = None) -> None:
        fault = Fault(kind=kind, target=target, value=value)
        FaultFile(self.folder, self.board).write(0, [Happening.of(fault, time.monotonic())])

    def held(self) -> int:
        with self.cell.update() as moment:
            return moment.state.held[BOARD.devices.index(CPU)]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def play(steps: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(steps(), 20))


def test_loading_and_profiling_take_the_modelled_time_and_energy(lab: Lab) -> None:
    async def steps() -> None:
        worker = lab.worker()
        await worker.start()
        assert worker.load_s >= CPU.load_s and worker.memory_mb > 0 and lab.held() == 1
        with lab.cell.update() as moment:
            before_j = moment.state.device_j[BOARD.devices.index(CPU)]
        started = time.monotonic()
        runs = await worker.profile(0.1, 100_000)
        assert time.monotonic() - started >= 0.1
        assert sum(runs) == pytest.approx(0.1, rel=0.2)
        assert statistics.median(runs) == pytest.approx(
            CPU.overhead_us / 1e6, rel=0.1
        )  # an Add has next to no work
        with lab.cell.update() as moment:
            spent_j = moment.state.device_j[BOARD.devices.index(CPU)] - before_j
        assert spent_j >= 0.9 * CPU.active_w * sum(runs)
        assert len(await worker.profile(10.0, 3)) == 3
        assert len(await worker.profile(0.0, 100)) == 1
        await worker.stop()
        assert worker.gone.is_set() and lab.held() == 0

    play(steps)


def test_golden_vectors_are_computed_once_and_a_mismatch_is_everybodys(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    class Counting(CpuDevice):
        def open(self, model: ModelFile, backend: str) -> Session:
            opened.append(backend)
            return super().open(model, backend)

    monkeypatch.setattr(truth, "CpuDevice", Counting)

    async def steps() -> None:
        await asyncio.gather(*(lab.worker().start() for _ in range(2)))
        good = [lab.worker() for _ in range(3)]
        for worker in good:
            await worker.start()
        await asyncio.gather(*(worker.check() for worker in good))
        assert opened == ["onnxruntime"]
        lab.y.write_bytes(np.arange(8, dtype="<f4").tobytes())
        bad = [lab.worker(device, "b" * 64) for device in ("cpu", "gpu")]
        for worker in bad:
            await worker.start()
            with pytest.raises(
                GoldenMismatch, match=f"on {worker.spec.candidate.device} .*golden sample 1 of 2: output 'y'"
            ):
                await worker.check()
        assert opened == ["onnxruntime"] * 2

    play(steps)


def test_a_corrupt_model_is_refused_on_every_node_and_nothing_stays_loaded(lab: Lab) -> None:
    lab.model.write_bytes(b"no model")

    async def steps() -> None:
        for worker in (lab.worker(), lab.worker()):
            with pytest.raises(ModelLoadError, match="pack a new version"):
                await worker.start()
            await worker.end()
        assert lab.held() == 0

    play(steps)


def test_a_device_opens_what_its_board_says(lab: Lab) -> None:
    with pytest.raises(RuntimeUnavailable, match="it has: cpu"):
        lab.worker("fpga")


def test_injected_faults_end_what_runs_and_are_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(light, "WATCH_S", 0.02)

    async def steps() -> None:
        worker = lab.worker()
        await worker.start()
        with socket.socket() as listener:
            await worker.serve(listener)
        assert lab.told == []
        lab.inject("device-lost")
        with pytest.raises(DeviceLost):
            await worker.profile(0.1, 10)
        told = len(lab.told)
        while len(lab.told) == told:  # in service it is told without anybody asking
            await asyncio.sleep(0.01)
        assert {type(error) for error in lab.told} == {DeviceLost}
        with pytest.raises(DeviceLost):
            await lab.worker().start()
        await worker.end()
        told = len(lab.told)
        await asyncio.sleep(0.1)
        assert len(lab.told) == told

    play(steps)


def test_transfers_that_do_not_end_and_overlays_that_do_not_load_fail_with_their_names(
    tmp_path: Path,
) -> None:
    lab = Lab(tmp_path, "kv260")

    async def steps() -> None:
        lab.inject("overlay-load-failure", "fpga")
        with pytest.raises(OverlayLoadError):
            await lab.program().start()
        FaultFile(lab.folder, lab.board).write(0, [])
        worker = lab.program()
        await worker.start()
        await worker.check()
        lab.inject("dma-timeout", "fpga", 0.5)
        with pytest.raises(DmaTimeout, match=r"0\.5 s"):
            await worker.check()
        lab.inject("core-hang", "fpga", 0.25)
        with pytest.raises(OverlayHung, match=r"0\.25 s"):
            await worker.check()
        assert [type(error) for error in lab.told] == [OverlayLoadError, DmaTimeout, OverlayHung]

    play(steps)


def test_every_node_has_a_board_of_its_own(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    first, second = Lab(one), Lab(two)
    second.make = first.make
    first.inject("device-lost")

    async def steps() -> None:
        await second.worker().start()
        with pytest.raises(DeviceLost):
            await first.worker().start()
        assert (first.held(), second.held()) == (0, 1)

    play(steps)


def test_a_program_with_a_cpu_segment_takes_both_devices(tmp_path: Path) -> None:
    lab = Lab(tmp_path, "pynq-z2")
    path = tmp_path / "double.npu"
    path.write_bytes(npu_double())
    spec = replace(lab.program().spec, file=ModelFile(path, "npu", (X,), (Y,)))

    async def steps() -> None:
        worker = lab._made(spec)
        await worker.start()
        (run_s,) = await worker.profile(0.0, 1)
        assert worker.parts.keys() == {"cpu", "fpga"}
        assert run_s == pytest.approx(sum(worker.parts.values()))
        with lab.cell.update() as moment:
            busy_s = dict(zip([d.id for d in lab.board.devices], moment.state.busy_s, strict=True))
        assert busy_s["cpu"] == pytest.approx(worker.parts["cpu"])
        await worker.end()

    play(steps)
