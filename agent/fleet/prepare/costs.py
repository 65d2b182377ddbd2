"""What variants cost where they run: latency and energy by ``placement.profile``, here and on simulated boards."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from agent.devices.board import open_board
from agent.errors import DeviceError
from agent.fleet.prepare.values import Cost, Dataset, Made, Progress, Request, Source
from agent.fleet.prepare.variants import CPU, GPU
from agent.hal import Board, Device, ModelFile, PowerMeter, Session
from agent.hal.device import Tensors
from agent.placement.profile.measure import idle_watts, measure
from agent.types import BackendInfo, Candidate, DeviceInfo, Measurement

SECONDS = 1.5  # for each variant on each device
REST_S = 0.3
LOCAL, FPGA_BOARD, GPU_BOARD = "local", "sim:pynq-z2", "sim:jetson-orin-nano"


def boards_for(targets: Sequence[str]) -> tuple[str, ...]:
    """This machine, and a simulated board for what it is unlikely to have."""
    wanted = {
        LOCAL: True,
        FPGA_BOARD: any(each not in (CPU, GPU) for each in targets),
        GPU_BOARD: GPU in targets,
    }
    return tuple(name for name, is_wanted in wanted.items() if is_wanted)


def measure_costs(
    request: Request, source: Source, made: Sequence[Made], samples: Dataset, progress: Progress
) -> tuple[tuple[Cost, ...], tuple[str, ...]]:
    """Costs, and in sentences what could not be measured. Raises RuntimeUnavailable (no such board)."""
    kinds = {target if target in (CPU, GPU) else "fpga" for target in request.targets}
    costs: list[Cost] = []
    notes: list[str] = []
    sample = {name: array[0, ...] for name, array in samples.inputs.items()}
    for name in request.boards:
        progress(f"looking at board {name}", 0.0)
        with tempfile.TemporaryDirectory() as folder:
            place = _Place(name, open_board(name, Path(folder)), Path(folder))
            ways = [way for way in place.ways(made) if way[0].kind in kinds]
            for done, (device, backend, each) in enumerate(ways):
                progress(f"measuring {each.name} on {device.id} of {name}", done / len(ways))
                try:
                    costs.append(place.cost(device, backend, each, source, sample))
                except DeviceError as error:
                    notes.append(f"{each.name} on {device.id} of {name} was not measured: {error}")
    for kind in sorted(kinds - {cost.kind for cost in costs}) if request.boards else ():
        notes.append(f"nothing was measured on a {kind}: none of these boards has one that runs a variant")
    return tuple(costs), tuple(notes)


class _Place:
    """A board that variants are measured on."""

    def __init__(self, name: str, board: Board, folder: Path) -> None:
        self._name, self._board, self._folder = name, board, folder
        self._info = board.describe()
        self._meters: Sequence[PowerMeter] = board.meters()

    def ways(self, made: Sequence[Made]) -> Iterator[tuple[DeviceInfo, BackendInfo, Made]]:
        """Programs on a CPU are for boards without a runtime: they are not measured there."""
        for device in self._info.devices:
            for each in made:
                if device.kind not in each.devices or (each.format == "npu" and device.kind == CPU):
                    continue
                for backend in device.backends:
                    if each.format in backend.formats:
                        yield device, backend, each

    def cost(
        self, device: DeviceInfo, backend: BackendInfo, each: Made, source: Source, sample: Tensors
    ) -> Cost:
        path = self._folder / each.file
        path.write_bytes(each.data)
        file = ModelFile(path, each.format, source.inputs, source.outputs, cache=self._folder)
        candidate = Candidate(each.name, backend.name, device.id)
        found = asyncio.run(self._measured(self._board.device(device.id), file, candidate, sample))
        return Cost(
            variant=each.name, board=self._name, device=device.id, kind=device.kind, backend=backend.name,
            simulated=device.simulated, runs=found.runs, p50_ms=found.p50_ms, p99_ms=found.p99_ms,
            energy_mj=None if found.joules is None else found.joules * 1e3, energy=found.energy,
            holding_w=found.holding_w,
        )  # fmt: skip

    async def _measured(
        self, device: Device, file: ModelFile, candidate: Candidate, sample: Tensors
    ) -> Measurement:
        rest_w = await idle_watts(self._meters, REST_S)
        session = device.open(file, candidate.backend)
        try:
            worker = _Worker(session, sample)
            profile = await measure(candidate, None, worker, self._meters, SECONDS, rest_w)
        finally:
            session.close()
        return profile.measurement


class _Worker:
    """A session in this process; see ``placement.profile.values.Profiled``. It runs on a thread, beside the meters."""

    load_s = memory_mb = 0.0

    def __init__(self, session: Session, sample: Tensors) -> None:
        self._session, self._sample = session, sample
        self.parts: Mapping[str, float] = {}

    async def profile(self, seconds: float, max_runs: int) -> list[float]:
        return await asyncio.to_thread(self._runs, seconds, max_runs)

    async def open_loop(self, seconds: float, rate_hz: float, seed: int) -> list[float]:  # noqa: ARG002
        return []  # nobody has said at which rate requests will come

    def _runs(self, seconds: float, max_runs: int) -> list[float]:
        end, times = time.monotonic() + seconds, list[float]()
        while not times or (time.monotonic() < end and len(times) < max_runs):
            times.append(self._session.run(self._sample).device_s)
        return times
