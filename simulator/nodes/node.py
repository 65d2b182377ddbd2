"""One node of many: its configuration, its folder, its daemon."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.app.daemon import Daemon
from agent.config import Config, Deploy, Mqtt, Node, Paths, Serving, Telemetry, Trust
from agent.errors import OverlaidError, one_line
from agent.package.tuf.thread import ThreadVerifier
from agent.serving.pool import MakeWorker
from agent.types import BoardInfo
from simulator.board import modelled_board
from simulator.faultfile import FaultFile
from simulator.faults import Happening
from simulator.profile import load_profile

CONFIG = "agent.toml"
TELEMETRY_MB = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """What the nodes have in common. ``boards`` are dealt out in turn."""

    site: str
    group: str
    boards: tuple[str, ...]
    mqtt: Mqtt
    trust: Trust
    deploy: Deploy

    def config(self, folder: Path, index: int) -> Config:
        """The configuration of node ``index`` with its files below ``folder``."""
        return Config(
            node=Node(
                site=self.site, name=name_of(index), groups=(self.group,), board=f"sim:{self.board(index)}"
            ),
            paths=Paths(state=folder / "state", runtime=folder / "run"),
            mqtt=self.mqtt,
            trust=self.trust,
            serving=Serving(http=""),
            deploy=self.deploy,
            telemetry=Telemetry(max_mb=TELEMETRY_MB),
        )

    def board(self, index: int) -> str:
        """The name of the board that node ``index`` has."""
        return self.boards[index % len(self.boards)]


def name_of(index: int) -> str:
    """sim-000, sim-001 ..."""
    return f"sim-{index:03d}"


class SimNode:
    """A daemon on a simulated board, as a task of this process. ``error``: why it ended by itself, if it did."""

    def __init__(
        self, config: Config, make_worker: MakeWorker, seed: int, happenings: Sequence[Happening]
    ) -> None:
        """Make its folders and its board, whose run times vary by ``seed``. Raises ConfigError, OSError."""
        self.config = config
        self.name = config.node.name
        self.board = config.node.board.partition(":")[2]
        self.error = ""
        self._stop = asyncio.Event()
        for path in (config.paths.state, config.paths.runtime):
            path.mkdir(mode=0o700, parents=True)
        _write_config(config)
        FaultFile(config.paths.runtime, load_profile(self.board)).write(seed, happenings)
        self._daemon = Daemon(config, make_worker, _probe, ThreadVerifier)
        self._task: asyncio.Task[None] | None = None

    @property
    def telemetry(self) -> Path:
        return self.config.paths.state / "telemetry.db"

    @property
    def received_bytes(self) -> int:
        """On its connections for blocks: whole frames."""
        return self._daemon.wire.total.received if self._daemon.wire else 0

    @property
    def alive(self) -> bool:
        return self._task is not None and not self._task.done()

    @property
    def connected(self) -> bool:
        """To the broker."""
        return self._daemon.reporter.connected

    async def start(self, patience_s: float) -> None:
        """Start, and wait until it is connected, has ended, or the time is over."""
        self._task = asyncio.create_task(self._run(), name=self.name)
        loop = asyncio.get_running_loop()
        until = loop.time() + patience_s
        while self.alive and not self.connected and loop.time() < until:
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Let the daemon end in order."""
        self._stop.set()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        try:
            await self._daemon.run(self._stop)
        except OverlaidError as error:
            self.error = f"{error.name}: {one_line(error)}"
        except Exception as error:  # one node's end must not take the others with it
            self.error = f"internal error: {type(error).__name__}: {one_line(error)}"


def _probe(board: str, _folder: Path) -> BoardInfo:
    return modelled_board(load_profile(board.partition(":")[2]))


def _write_config(config: Config) -> None:
    """What ``overlaid status``, ``devices`` and ``sim inject`` need to find the node; no broker, no secret."""
    paths, node = config.paths, config.node
    text = (
        f'[node]\nsite = "{node.site}"\nname = "{node.name}"\nboard = "{node.board}"\n'
        f"[paths]\nstate = {json.dumps(str(paths.state))}\nruntime = {json.dumps(str(paths.runtime))}\n"
    )
    (paths.state.parent / CONFIG).write_text(text)
