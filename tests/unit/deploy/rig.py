"""A manager on a temporary node: a real store, journal and telemetry; only the worker processes are stood in for."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.deploy.journal import Journal
from agent.deploy.manager import Manager
from agent.deploy.resources import Resources, Settings
from agent.errors import BlockMissing, GoldenMismatch, InferenceError, ModelLoadError, OverlaidError
from agent.histogram import Histogram
from agent.package.blocks import file_entry
from agent.package.manifest import File, GoldenInputs, GoldenOutputs, Manifest, Variant
from agent.package.store import Store
from agent.package.tuf.parent import MetadataSource
from agent.package.verify import Trusted, digest_of
from agent.serving.builds import Builds
from agent.serving.events import PoolEvent, WorkerStatus
from agent.serving.processes.building import Building
from agent.serving.spec import WorkerSpec
from agent.telemetry.writer import Telemetry
from agent.types import (
    BackendInfo,
    BoardInfo,
    Budget,
    Candidate,
    Delivery,
    DesiredModel,
    DesiredState,
    DeviceInfo,
    ModelStatus,
    OverlayRef,
    TensorSpec,
)

BUDGET = Budget(20.0, 10.0)
BOARD = BoardInfo(
    "local", False, (DeviceInfo("cpu", "cpu", "a CPU", (BackendInfo("onnxruntime", "1", ("onnx",)),)),)
)


@dataclass
class Package:
    """A package of one variant in memory."""

    encoded: bytes
    blocks: dict[str, bytes]
    model: str = "digits"

    @property
    def digest(self) -> str:
        return digest_of(self.encoded)


def make_package(
    version: str,
    format_: str = "onnx",
    model: str = "digits",
    devices: tuple[str, ...] = ("cpu",),
    overlay: OverlayRef | None = None,
    batch: int = 1,
    more: Mapping[str, OverlayRef] | None = None,
) -> Package:
    """``more``: overlays of further variants, by name."""
    files: dict[str, File] = {}
    blocks: dict[str, bytes] = {}
    for name, data in {
        "model.bin": version.encode() * 9,
        "x.bin": bytes(16),
        "y.bin": bytes(range(16)),
    }.items():
        files[name], parts = file_entry(data, [])
        blocks |= {digest_of(part): part for part in parts}
    variant: dict[str, Any] = {"name": "v", "format": format_, "precision": "int8", "devices": devices}
    variant["overlay"] = overlay
    golden = GoldenOutputs(outputs={"y": "y.bin"}, atol=0.0, rtol=0.0)
    manifest = Manifest(
        schema="overlaid-package/1",
        name=model,
        version=version,
        licence="Apache-2.0",
        inputs=(TensorSpec("x", "FP32", (batch, 4)),),
        outputs=(TensorSpec("y", "FP32", (batch, 4)),),
        golden=GoldenInputs(count=1, inputs={"x": "x.bin"}),
        variants=tuple(
            Variant(file="model.bin", golden=golden, **{**variant, **each})
            for each in ({}, *({"name": name, "overlay": ref} for name, ref in (more or {}).items()))
        ),
        files=files,
    )
    return Package(manifest.encode(), blocks, model)


def write_package(folder: Path, package: Package) -> Path:
    """The folder that ``overlaid fleet pack`` would have written."""
    (folder / "blocks").mkdir(parents=True)
    (folder / "manifest.json").write_bytes(package.encoded)
    for sha, data in package.blocks.items():
        (folder / "blocks" / sha).write_bytes(data)
    return folder


@dataclass
class Source:
    """Delivers packages from memory; ``hold`` keeps blocks back until it is set (of ``held`` only, if
    named; never the manifest)."""

    packages: list[Package]
    hold: asyncio.Event | None = None
    held: str = ""
    asked: list[str] = field(default_factory=list)
    turn: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(8))
    deliveries: dict[str, Delivery] = field(default_factory=dict)
    hurried: list[str] = field(default_factory=list)
    keep_newer = False

    async def metadata(self, name: str, limit: int) -> bytes | None:
        raise AssertionError(f"{name} ({limit}): the stand-in asks for nothing")

    async def fetch(
        self, digest: str, wanted: Mapping[str, int], deliver: Callable[[str, bytes], None]
    ) -> None:
        package = next((p for p in self.packages if p.digest == digest), None)
        if package is None:
            raise BlockMissing(f"the server does not have {digest[:12]}")
        for sha in wanted:
            if sha != digest and self.hold is not None and self.held.encode() in package.blocks[sha]:
                await self.hold.wait()
            self.asked.append(sha)
            deliver(sha, package.encoded if sha == digest else package.blocks[sha])

    def delivery(self, digest: str) -> Delivery:
        return self.deliveries.get(digest, Delivery())

    def hurry(self, digest: str) -> None:
        self.hurried.append(digest)


@dataclass
class StandInVerifier:
    """Lets everything be installed until ``refuses`` is set; ``asked``: name, version, and whether of a folder."""

    refuses: OverlaidError | None = None
    asked: list[tuple[str, str, bool]] = field(default_factory=list)

    async def check(self, name: str, version: str, digest: str, source: MetadataSource) -> Trusted:
        self.asked.append((name, version, source.keep_newer))
        await asyncio.sleep(0)
        if self.refuses is not None:
            raise self.refuses
        return Trusted(digest, "packages")


@dataclass
class StandInWorker:
    spec: WorkerSpec
    pid: int
    pool: StandInPool
    load_s: float = 0.01
    memory_mb: float = 10.0
    parts: Mapping[str, float] = field(default_factory=dict)
    building: Building = field(default_factory=Building)

    async def check(self) -> None:
        serves = self in self.pool.routes.values()
        if serves and self.spec.version in self.pool.fails_requests and self.pool.fails_with is not None:
            raise self.pool.fails_with
        if self.spec.candidate.device in self.pool.wrong_on:
            raise GoldenMismatch("y differs by 3.0 > 0.0")
        rotten = self.pool.rotten
        if self.spec.version in self.pool.wrong or (rotten and not rotten.read_bytes().startswith(b"1.0.0")):
            raise GoldenMismatch("y differs by 3.0 > 0.0")

    async def profile(self, seconds: float, max_runs: int) -> list[float]:
        return [self.pool.run_s.get(self.spec.candidate.device, 0.001)] * min(500, max_runs)

    async def open_loop(self, seconds: float, rate_hz: float, seed: int) -> list[float]:
        return (await self.profile(seconds, 1)) * round(seconds * rate_hz)

    async def batch_times(self, seconds: float, limit_s: float) -> dict[int, list[float]]:
        if self.pool.batch_times is None:
            raise InferenceError("answers depend on what else is in the run")
        return self.pool.batch_times


@dataclass
class StandInPool:
    """What Manager uses of the pool. ``wrong``, ``corrupt``: versions that misbehave; ``refuses``: what opening a
    device raises; ``wrong_on``: devices that compute nonsense; ``run_s``: seconds of a run by device; ``held``: models
    that answer why they are not run."""

    wrong: set[str] = field(default_factory=set)
    corrupt: set[str] = field(default_factory=set)
    routes: dict[str, StandInWorker] = field(default_factory=dict)
    alive: list[StandInWorker] = field(default_factory=list)
    dies_in_soak: set[str] = field(default_factory=set)
    fails_requests: set[str] = field(default_factory=set)
    fails_with: OverlaidError | None = None  # what these requests failed with
    started: int = 0
    rotten: Path | None = None
    refuses: dict[str, OverlaidError] = field(default_factory=dict)
    wrong_on: set[str] = field(default_factory=set)
    restarted: list[str] = field(default_factory=list)
    expected: set[str] = field(default_factory=set)
    batch_times: dict[int, list[float]] | None = None  # None: runs cannot be joined
    run_s: dict[str, float] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    slow_s: float = 0.0  # of route and unroute, as with a client that holds the old worker up
    builds: Builds = field(default_factory=Builds)

    async def start(self, spec: WorkerSpec) -> StandInWorker:
        if spec.version in self.corrupt:
            raise ModelLoadError("not a model")
        if error := self.refuses.get(spec.candidate.device):
            raise error
        self.started += 1
        worker = StandInWorker(spec, 1000 + self.started, self)
        self.alive.append(worker)
        return worker

    async def route(self, model: str, worker: StandInWorker) -> StandInWorker | None:
        old = self.routes.get(model)
        self.routes[model] = worker
        self.held.pop(model, None)
        await asyncio.sleep(self.slow_s)
        return old

    async def hold(self, spec: WorkerSpec, why: str) -> None:
        self.held[spec.model] = why
        worker = self.routes.pop(spec.model, None)
        if worker:
            self.alive.remove(worker)

    def expect(self, models: Iterable[str]) -> None:
        self.expected = set(models)

    async def restart(self, model: str) -> None:
        old = self.routes[model]
        self.routes[model] = await self.start(old.spec)
        self.alive.remove(old)
        self.restarted.append(model)

    async def unroute(self, model: str) -> None:
        await asyncio.sleep(self.slow_s)
        self.held.pop(model, None)
        worker = self.routes.pop(model, None)
        if worker:
            self.alive.remove(worker)

    async def stop(self, worker: StandInWorker) -> None:
        await asyncio.sleep(self.slow_s)
        self.alive.remove(worker)

    def status(self, model: str) -> WorkerStatus | None:
        worker = self.routes.get(model)
        if model in self.held:
            here = Candidate("v", "onnxruntime", "cpu")
            why = self.held[model]
            return WorkerStatus(False, None, "", "", here, 0, 9, 0, Histogram(), 0.0, why=why, held=True)
        if worker is None:
            return None
        dead = worker.spec.version in self.dies_in_soak
        spec = worker.spec
        failed = 2 if spec.version in self.fails_requests else 0
        pid = None if dead else worker.pid
        return WorkerStatus(
            not dead, pid, spec.version, spec.digest, spec.candidate, 0, 9, failed, Histogram(), 10.0
        )


class Rig:
    """A manager on a temporary node."""

    def __init__(
        self,
        folder: Path,
        source: Source,
        pool: StandInPool | None = None,
        groups: tuple[str, ...] = (),
        board: BoardInfo = BOARD,
    ) -> None:
        self.folder, self.source = folder, source
        self.pool = pool or StandInPool()
        self.verifier = StandInVerifier()
        self.journal = Journal(folder / "state.db")
        self.telemetry = Telemetry(folder / "telemetry.db", 8)
        self.store = Store(folder / "store", 1 << 24)
        settings = Settings("local", folder, 1, 1 << 20, 256, 0.05, 0.1, 5.0, 5.0)
        resources = Resources(
            self.store,
            self.pool,  # type: ignore[arg-type]
            self.journal,
            self.telemetry,
            self.verifier,
            board,
            (),
            settings,
        )
        self.manager = Manager(resources, "lab/n1", groups, source, lambda: None)
        self.revision = 0

    def want(
        self,
        *packages: tuple[Package, str],
        budget: Budget = BUDGET,
        cap_w: float | None = None,
        instances: int = 1,
    ) -> None:
        self.revision += 1
        models = tuple(
            DesiredModel(package.model, version, package.digest, budget, instances)
            for package, version in packages
        )
        self.journal.accept_desired("lab/n1", DesiredState(self.revision, 1.0, 1e10, models, cap_w))
        self.manager.reconcile()

    def status(self) -> ModelStatus | None:
        return next(iter(self.manager.statuses()), None)

    async def settled(self) -> ModelStatus | None:
        for _ in range(500):
            if self.manager.revision_applied == self.revision:
                return self.status()
            await asyncio.sleep(0.01)
        raise AssertionError(f"not settled: {self.status()}")

    def serves(self, requests: int, seconds: float, model: str = "digits") -> None:
        """The model's worker tells of requests, each a run that took so long."""
        spec, latency = self.pool.routes[model].spec, Histogram()
        for _ in range(requests):
            latency.add(seconds)
        event = PoolEvent("stats", model, spec.version, spec.candidate, histogram=latency, device=latency)
        self.manager.served(event)

    def events(self) -> list[tuple[str, str]]:
        """Kind and text of what telemetry was told."""
        assert self.telemetry.flush()
        with contextlib.closing(sqlite3.connect(self.folder / "telemetry.db")) as db:
            return [
                (str(kind), str(text))
                for kind, text in db.execute("SELECT kind, text FROM events ORDER BY id")
            ]

    def close(self) -> None:
        self.journal.close()
        self.telemetry.close()


def play(
    folder: Path,
    scenario: Callable[[Rig], Any],
    source: Source,
    pool: StandInPool | None = None,
    board: BoardInfo = BOARD,
) -> None:
    """Run a scenario beside a manager that works off its queue."""

    async def run() -> None:
        rig = Rig(folder, source, pool, board=board)
        work = asyncio.create_task(rig.manager.run())
        try:
            await scenario(rig)
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            rig.close()

    asyncio.run(run())
