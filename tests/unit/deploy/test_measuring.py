"""Which candidates are measured, what counts of earlier measurements, and what becomes of those that are not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from agent.deploy import measuring, phases
from agent.deploy.journal import Journal
from agent.deploy.measuring import measure_all
from agent.deploy.resources import Resources, Settings
from agent.errors import DeviceLost, OverlaidError, StoreError
from agent.package.store import Store
from agent.package.verify import VerifiedPackage
from agent.placement.profile import Profile, cache
from agent.telemetry.writer import Telemetry
from agent.types import (
    BackendInfo,
    BoardInfo,
    Budget,
    Candidate,
    DesiredModel,
    DeviceInfo,
    Measurement,
    OverlayRef,
    Placement,
    Verdict,
)
from tests.unit.deploy.rig import Source, StandInPool, StandInVerifier, make_package

ONNX = (BackendInfo("onnxruntime", "1.20", ("onnx",)),)
NEWER = (BackendInfo("onnxruntime", "1.21", ("onnx",)),)
BOARD = BoardInfo(
    "kv260",
    False,
    (DeviceInfo("cpu", "cpu", "A53", ONNX), DeviceInfo("gpu0", "gpu", "a GPU", ONNX)),
    power_mode="15W",
)
BUDGET = Budget(20.0, 10.0)
V1, V2 = (make_package(version, devices=("cpu", "gpu")) for version in ("1.0.0", "1.1.0"))
SMALL = OverlayRef("npu-small", 1, 8)
PROGRAM = make_package("1.1.0", "npu", devices=("cpu", "fpga"), overlay=SMALL)
NPU = (BackendInfo("npu", "1", ("npu",)),)
WITH_FPGA = BoardInfo(
    "kv260",
    False,
    (
        DeviceInfo("cpu", "cpu", "A53", (BackendInfo("program", "1", ("npu",)),)),
        DeviceInfo("fpga", "fpga", "logic", NPU, overlays=(SMALL,)),
    ),
)
Found = tuple[list[Measurement], list[Verdict], list[OverlaidError]]


class Meter:
    """Counts 3 W of nothing."""

    rail, tag = "vdd", "measured"

    def __init__(self) -> None:
        self.joules_j = 0.0

    def joules(self) -> float:
        self.joules_j += 0.06
        return self.joules_j


@dataclass
class Node:
    """What measuring needs of a node. Its workers answer at once; ``started``: by device."""

    folder: Path
    board: BoardInfo = BOARD
    meters: tuple[Meter, ...] = ()
    pool: StandInPool = field(default_factory=StandInPool)
    phase_timeout_s: float = 5.0
    run_s: dict[str, float] = field(default_factory=dict)
    power_mode: str | None = None  # set by somebody while the node runs

    def __post_init__(self) -> None:
        self.started: list[str] = []
        self.opened: list[float] = []
        self.progress: list[float] = []
        self.journal = Journal(self.folder / "state.db")
        self.store = Store(self.folder / "store", 1 << 24)
        self.telemetry = Telemetry(self.folder / "telemetry.db", 8)
        start = self.pool.start

        async def counted(spec: Any) -> Any:
            self.started.append(spec.candidate.device)
            worker: Any = await start(spec)
            run_s = self.run_s.get(spec.candidate.device, 0.001)

            async def profile(seconds: float, max_runs: int) -> list[float]:
                del seconds
                return [run_s] * min(500, max_runs)

            async def open_loop(seconds: float, rate_hz: float, seed: int) -> list[float]:
                del seed
                self.opened.append(rate_hz)
                return [run_s] * round(seconds * rate_hz)

            worker.profile, worker.open_loop = profile, open_loop
            return worker

        self.pool.start = counted  # type: ignore[method-assign]

    @property
    def res(self) -> Resources:
        settings = Settings("local", self.folder, 1, 1 << 20, 256, 0.05, 0.02, 5.0, self.phase_timeout_s)
        return Resources(
            self.store, self.pool, self.journal, self.telemetry, StandInVerifier(), self.board,  # type: ignore[arg-type]
            self.meters, settings, None if self.power_mode is None else lambda: str(self.power_mode),
        )  # fmt: skip

    async def package(self, package: Any) -> VerifiedPackage:
        async def no_room() -> None:
            raise AssertionError

        model = DesiredModel("digits", package_version(package), package.digest, BUDGET)
        found = await phases.download(self.res, Source([V1, V2, PROGRAM]), model, no_room, lambda _: None)
        await phases.assemble(self.res, found, lambda _: None)
        return found

    async def measure(self, package: Any = V1, budget: Budget = BUDGET, **options: Any) -> Found:
        running = options.pop("running", None)
        self.started.clear()
        self.opened.clear()
        self.progress.clear()
        return await measure_all(
            self.res, await self.package(package), budget, running, self.progress.append, **options
        )


def package_version(package: Any) -> str:
    return "1.0.0" if package is V1 else "1.1.0"


def play(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 20))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.telemetry.close()
    made.journal.close()


def test_every_candidate_is_measured_with_progress(node: Node) -> None:
    async def scenario() -> None:
        found, failed, errors = await node.measure()
        assert sorted(m.candidate.device for m in found) == ["cpu", "gpu0"]
        assert (failed, errors) == ([], [])
        assert node.progress == [0.5, 1.0]
        assert all(m.p99_ms == pytest.approx(1.0) and m.measured > 1e9 for m in found)
        assert node.pool.alive == []

    play(scenario)


def test_what_was_measured_under_the_same_conditions_counts_again(node: Node) -> None:
    async def scenario() -> None:
        first = await node.measure()
        assert sorted(node.started) == ["cpu", "gpu0"]
        assert await node.measure(budget=Budget(5.0, 10.0, priority=3)) == first
        assert node.started == []
        assert await node.measure(again=True) != first and sorted(node.started) == ["cpu", "gpu0"]
        await node.measure(V2)
        assert sorted(node.started) == ["cpu", "gpu0"]  # another package

    play(scenario)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "zcu104"},
        {"power_mode": "7W"},
        {"devices": tuple(replace(d, name="newer") for d in BOARD.devices)},
        {"devices": tuple(replace(d, backends=NEWER) for d in BOARD.devices)},
    ],
    ids=["board", "power mode", "device", "runtime"],
)  # fmt: skip
def test_profiles_of_other_conditions_do_not_count(node: Node, change: dict[str, Any]) -> None:
    async def scenario() -> None:
        await node.measure()
        node.board = replace(BOARD, **change)
        await node.measure()
        assert sorted(node.started) == ["cpu", "gpu0"]
        node.board = BOARD
        await node.measure()
        assert node.started == []  # both are kept

    play(scenario)


def test_a_power_mode_that_is_set_while_the_node_runs_counts(node: Node) -> None:
    async def scenario() -> None:
        await node.measure()
        node.power_mode = "7W"
        await node.measure()
        assert sorted(node.started) == ["cpu", "gpu0"]
        node.power_mode = "15W"
        await node.measure()
        assert node.started == []

    play(scenario)


def test_only_what_is_missing_is_measured(node: Node) -> None:
    async def scenario() -> None:
        node.board = replace(BOARD, devices=BOARD.devices[:1])
        await node.measure()
        node.board = BOARD
        found, _, _ = await node.measure()
        assert node.started == ["gpu0"] and len(found) == 2

    play(scenario)


def test_another_rate_opens_the_loop_anew_and_measures_nothing_else(node: Node) -> None:
    async def scenario() -> None:
        first, _, _ = await node.measure(budget=Budget(20.0, 400.0))
        assert set(node.opened) == {400.0}
        again, _, _ = await node.measure(budget=Budget(20.0, 600.0))
        assert sorted(node.started) == ["cpu", "gpu0"] and set(node.opened) == {600.0}
        assert [m.runs for m in again] == [m.runs for m in first]
        await node.measure(budget=Budget(20.0, 590.0))
        assert node.started == []
        busy, _, _ = await node.measure(budget=Budget(20.0, 900.0))  # no gaps are left: nothing to learn
        assert node.started == [] and len(busy) == 2

    play(scenario)


def test_energy_that_was_missing_is_measured_later_when_there_are_meters(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        await node.measure()
        node.meters = (Meter(),)
        await node.measure()
        assert node.started == []
        monkeypatch.setattr(cache, "AGAIN_S", 0.0)
        await node.measure()
        assert sorted(node.started) == ["cpu", "gpu0"]

    play(scenario)


def test_nonsense_that_is_kept_is_measured_again(node: Node) -> None:
    async def scenario() -> None:
        found, _, _ = await node.measure()
        for key, kept in node.journal.profiles.of("digits"):
            node.journal.profiles.keep("digits", key, Profile(replace(kept.closed, mean_ms=float("nan"))))
        again, _, _ = await node.measure()
        assert sorted(node.started) == ["cpu", "gpu0"]
        assert [m.mean_ms for m in again] == [m.mean_ms for m in found]

    play(scenario)


def test_a_disk_that_refuses_costs_only_the_keeping(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise StoreError("disk full")

    async def scenario() -> None:
        monkeypatch.setattr(node.journal.profiles, "keep", full)
        monkeypatch.setattr(node.journal.profiles, "of", full)
        for _ in range(2):
            found, failed, errors = await node.measure()
            assert (len(found), failed, errors) == (2, [], [])
            assert sorted(node.started) == ["cpu", "gpu0"]

    play(scenario)


def test_a_device_that_fails_is_told_and_measured_when_it_is_back(node: Node) -> None:
    async def scenario() -> None:
        node.pool.refuses["gpu0"] = DeviceLost("not on the bus")
        found, failed, errors = await node.measure()
        assert [m.candidate.device for m in found] == ["cpu"]
        assert [verdict.reason for verdict in failed] == ["DeviceLost: not on the bus"]
        assert [type(error) for error in errors] == [DeviceLost]
        node.pool.refuses.clear()
        found, failed, errors = await node.measure()
        assert len(found) == 2 and (failed, errors) == ([], [])

    play(scenario)


def test_a_mismatch_is_found_by_measuring_not_kept(node: Node) -> None:
    async def scenario() -> None:
        node.pool.wrong_on.add("cpu")
        found, failed, _ = await node.measure()
        assert [m.candidate.device for m in found] == ["gpu0"]
        assert failed[0].reason.startswith("GoldenMismatch")
        assert [key.device for key, _ in node.journal.profiles.of("digits")] == ["gpu0"]

    play(scenario)


def test_likely_ones_are_measured_when_there_is_no_time_for_all(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        node.run_s = {"gpu0": 0.0301, "cpu": 0.001}
        await node.measure(V2)  # the GPU was late when version 1.1.0 was measured
        monkeypatch.setattr(measuring, "TIME_SHARE", 0.0)
        found, failed, errors = await node.measure(V1)
        assert [m.candidate.device for m in found] == ["cpu"]
        assert [str(v.candidate) for v in failed] == ["v on gpu0 (onnxruntime)"]
        assert failed[0].reason == (
            "not measured: the 0 s for measuring were over; it had p99 30.1 ms of another version"
        )
        assert errors == []

    play(scenario)


def test_a_model_in_service_that_gets_late_costs_samples(node: Node) -> None:
    async def scenario() -> None:
        found, _, _ = await node.measure(quiet=lambda: False)
        assert [m.runs for m in found] == [2, 2]
        assert [m.confidence for m in found] == pytest.approx([0.0199, 0.0199])
        found, _, _ = await node.measure()
        assert all(m.runs > 100 for m in found)  # nobody is late any more: it was not kept

    play(scenario)


@pytest.mark.parametrize(("runs", "kept"), [(4, 0), (5, 2)])
def test_a_handful_of_runs_that_no_meter_told_of_is_not_kept(
    node: Node, monkeypatch: pytest.MonkeyPatch, runs: int, kept: int
) -> None:
    async def measure(_res: Any, _package: Any, candidate: Candidate, *_: Any) -> Profile:
        return Profile(Measurement(candidate, runs, 900, 900, 990, 0.1, 0.1, 1, None))

    async def scenario() -> None:
        monkeypatch.setattr(measuring, "_measure", measure)
        node.meters = (Meter(),)
        found, failed, errors = await node.measure()
        assert [m.runs for m in found] == [runs, runs] and (failed, errors) == ([], [])
        assert len(node.journal.profiles.of("digits")) == kept

    play(scenario)


def test_what_would_take_an_fpga_from_who_runs_is_not_started(node: Node) -> None:
    asked: list[tuple[str, OverlayRef]] = []

    async def refuse(device: str, overlay: OverlayRef) -> str:
        asked.append((device, overlay))
        return "fpga holds npu for faces"

    async def scenario() -> None:
        node.board = WITH_FPGA
        for again in (False, True):
            found, failed, errors = await node.measure(PROGRAM, claim=refuse, again=again)
            assert [m.candidate.device for m in found] == ["cpu"] == node.started and errors == []
            assert [(v.candidate.device, v.reason) for v in failed] == [
                ("fpga", "not measured: fpga holds npu for faces")
            ]
            assert asked == [("fpga", SMALL)]
            asked.clear()

    play(scenario)


def test_what_is_known_of_it_counts_and_is_not_completed(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: Any) -> str:
        return "fpga holds npu for faces"

    async def scenario() -> None:
        node.board = WITH_FPGA
        known, failed, _ = await node.measure(PROGRAM, Budget(20.0, 400.0))
        assert len(known) == 2 and {m.overlay for m in known} == {None, SMALL} and failed == []
        monkeypatch.setattr(cache, "AGAIN_S", 0.0)
        node.meters = (Meter(),)  # energy is missing
        found, failed, _ = await node.measure(PROGRAM, Budget(20.0, 600.0), claim=refuse)
        assert node.started == ["cpu"] and failed == []
        [fpga] = [m for m in found if m.candidate.device == "fpga"]
        assert fpga.runs > 100 and fpga.overlay == SMALL and fpga.open_p99_ms is None  # of another rate

    play(scenario)


def test_an_fpga_card_holds_no_overlay(node: Node) -> None:
    """OpenCL's kernels run the programs of every overlay: nobody is asked to make way."""

    async def refuse(device: str, overlay: OverlayRef) -> str:
        raise AssertionError(f"{device} does not take {overlay}")

    async def scenario() -> None:
        opencl = (BackendInfo("opencl", "OpenCL 3.0", ("npu",)),)
        node.board = BoardInfo("local", False, (DeviceInfo("card", "fpga", "a card", opencl),))
        [card], failed, _ = await node.measure(PROGRAM, claim=refuse)
        assert (str(card.candidate), card.overlay, failed) == ("v on card (opencl)", None, [])

    play(scenario)


def test_the_models_other_worker_is_no_part_of_the_rest(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    candidate = Candidate("v", "onnxruntime", "gpu0")
    measured = Measurement(candidate, 9, 1, 1, 1, 0.9, 0.1, 1, None, 0.002, "measured", 2.5, 3.0)
    running = Placement(
        "digits", "1.0.0", "0" * 64, BUDGET, candidate, "", (Verdict(candidate, True, "", measured),), 0.0
    )

    async def measure(_res: Any, _package: Any, candidate: Candidate, *_: Any) -> Profile:
        return Profile(
            replace(measured, candidate=candidate, holding_w=0.0, parts=(("gpu", 0.6), ("cpu", 0.4)))
        )

    async def scenario() -> None:
        monkeypatch.setattr(measuring, "_measure", measure)
        for _ in range(2):  # as measured, and as kept
            found, _, _ = await node.measure(running=running)
            assert {m.candidate.device: (m.rest_w, m.holding_w) for m in found} == {
                "cpu": (0.5, 0.0),
                "gpu0": (0.5, 2.5),
            }
            assert all(m.parts == (("gpu0", 0.6), ("cpu", 0.4)) for m in found)

    play(scenario)


def test_a_load_that_built_something_is_not_what_loading_costs(node: Node) -> None:
    start = node.pool.start

    async def building(spec: Any) -> Any:
        worker: Any = await start(spec)
        if len(node.started) == 1:  # the cache is empty
            worker.load_s, worker.building.total_s = 300.0, 299.0
        return worker

    node.pool.start = building  # type: ignore[method-assign]

    async def scenario() -> None:
        measurements, _, _ = await node.measure()
        first, second, *others = node.started
        assert first == second
        assert first not in others
        assert {m.load_s for m in measurements} == {0.01}
        assert node.pool.alive == []

    play(scenario)


def test_cancelling_leaves_no_worker(node: Node) -> None:
    async def scenario() -> None:
        hold = asyncio.Event()

        async def forever(*_: Any) -> list[float]:
            hold.set()
            await asyncio.Event().wait()
            raise AssertionError

        start = node.pool.start

        async def held(spec: Any) -> Any:
            worker: Any = await start(spec)
            worker.profile = forever
            return worker

        node.pool.start = held  # type: ignore[method-assign]
        task = asyncio.ensure_future(node.measure())
        await hold.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert node.pool.alive == []

    play(scenario)
