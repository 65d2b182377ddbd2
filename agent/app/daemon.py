"""The daemon's life: what starts in which order, and how it ends."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import uuid
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TextIO

from agent import __version__, notify
from agent.app.allowance import allow_many_descriptors, share_one_heap
from agent.app.bindings.runner import Bindings
from agent.app.commands import Commands
from agent.app.endings import Endings
from agent.app.inbox import Inbox
from agent.app.local import LocalOperations
from agent.app.meters import node_meters
from agent.app.power import PowerLog
from agent.app.reporter import Reporter
from agent.app.uplink import Uplink
from agent.app.wire import WireSource, group_targets, mqtt_settings, node_target
from agent.config import Config
from agent.control.server import ControlServer
from agent.deploy.journal import Journal
from agent.deploy.manager import Manager
from agent.deploy.resources import Resources, Settings
from agent.devices.board import open_board
from agent.devices.machine import power_mode
from agent.devices.probe import probe_board
from agent.errors import ConfigError
from agent.hal import PowerMeter
from agent.hours import PLAUSIBLE_TIME
from agent.link.client import MqttLink, Will
from agent.link.messages import Status
from agent.link.outbox import Outbox
from agent.logs.recent import Recent
from agent.package.store import Store
from agent.package.tuf.parent import HelperVerifier, Verifier
from agent.serving.door.front_door import FrontDoor
from agent.serving.door.node import Energy, NodeState
from agent.serving.events import PoolEvent
from agent.serving.pool import MakeWorker, Pool
from agent.telemetry import sampler
from agent.telemetry.writer import Telemetry
from agent.trust import PublicKey, keyring
from agent.types import BoardInfo, PowerSample
from agent.waiting import stop_signals

log = logging.getLogger("app")


def main(config: Config) -> int:
    """Run until SIGTERM or SIGINT."""
    lock = _prepare(config)
    allow_many_descriptors()
    share_one_heap()
    recent = Recent()
    logging.getLogger().addHandler(recent)
    try:
        asyncio.run(_until_signal(config, recent))
    finally:
        logging.getLogger().removeHandler(recent)
        lock.close()
    return 0


async def _until_signal(config: Config, recent: Recent) -> None:
    with stop_signals() as stop:
        await Daemon(config, recent=recent).run(stop)


def _prepare(config: Config) -> TextIO:
    """Make the folders and take the lock: two daemons on one state folder would corrupt each other's work."""
    try:
        for folder in (config.paths.state, config.paths.runtime):
            folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            # The default below /tmp could have been made by anybody.
            if os.geteuid() != 0 and folder.stat().st_uid != os.geteuid():
                raise ConfigError(f"{folder} belongs to another user; set [paths] to folders of your own")
        lock = _lock_file(config.paths.state / "lock")
    except OSError as error:
        raise ConfigError(
            f"{error.filename}: {error.strerror}; set [paths] to folders this user may write"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise ConfigError(f"another overlaid runs on {config.paths.state}; stop it first") from error
    return lock


def _lock_file(path: Path) -> TextIO:
    """On a disk that became read-only the one that is there: models shall serve, and locking writes nothing."""
    try:
        return path.open("w")
    except OSError as error:
        if error.errno != errno.EROFS or not path.exists():
            raise
        return path.open()


class Daemon:
    """Owns every part of the running agent."""

    def __init__(
        self,
        config: Config,
        make_worker: MakeWorker | None = None,
        probe: Callable[[str, Path], BoardInfo] = probe_board,
        verifier: Callable[[Path | None, Path, Callable[[], float]], Verifier] = HelperVerifier,
        recent: Recent | None = None,
    ) -> None:
        """Many simulated nodes in one process (``overlaid sim nodes``) bring workers, probing and verification without
        processes, and no ``recent``: what is logged there is everybody's."""
        self.config, self._probe, self._recent = config, probe, recent or Recent()
        state, runtime = config.paths.state, config.paths.runtime
        self.boot_id = uuid.uuid4().hex
        self.telemetry = Telemetry(state / "telemetry.db", config.telemetry.max_mb)
        self.board = open_board(config.node.board, runtime)
        self.journal = Journal(state / "state.db", self.board.wall_time)
        self.store = Store(state / "store", config.store.max_mb << 20, self.board.before_write)
        self.verifier = verifier(config.trust.root, state / "repo", self._plausible_time)
        self.pool = Pool(runtime, self._pool_event, make_worker)
        self.front_door = FrontDoor(
            self.pool,
            config.serving.http,
            runtime / "http.sock",
            self._node_state,
            config.serving.shared_memory,
        )
        self.power = PowerLog()
        self.node = node_target(config)
        self.wire = WireSource(config, self.board.wall_time, self.journal.now) if config.mqtt else None
        self.reporter = Reporter(config, self.node, self.boot_id, self.telemetry, lambda: self.power.watts)
        if self.wire is not None:
            wire = self.wire
            self.reporter.delivery = lambda: wire.total
            wire.changed = self.reporter.changed
        self.local = LocalOperations(self.reporter)
        self.control = ControlServer(runtime / "control.sock", self.local.handle)
        self.tasks: list[asyncio.Task[None]] = []
        self.link: MqttLink | None = None
        self.outbox: Outbox | None = None
        self.inbox: Inbox | None = None
        self.endings: Endings | None = None
        self.bindings: Bindings | None = None
        self.manager: Manager | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Start, wait for ``stop`` or for a part to die, stop in order."""
        try:
            await self._start()
            await self._wait(stop)
        finally:
            await self._stop()

    async def _start(self) -> None:
        self.pool.expect(self.store.models())
        await self.control.start()
        await self.front_door.start()
        notify.ready(f"probing board {self.config.node.board}")
        self._spawn(self._feed_watchdog())
        board = await asyncio.to_thread(self._probe, self.config.node.board, self.config.paths.runtime)
        for problem in board.problems:
            log.warning("%s", problem)
        meters, board = await asyncio.to_thread(node_meters, self.board, board, self.config.power)
        manager = self.manager = self._manager(board, meters)
        self.local.attach(manager, board)
        self._connect(manager, board)
        self._spawn(self.reporter.run())
        self._spawn(manager.run())
        self._spawn(sampler.run(meters, self.config.power.sample_s, self._power))
        log.info("overlaid %s started on %s, board %s", __version__, self.node, board.name)
        self.telemetry.event("started", f"overlaid {__version__}, board {board.name}")

    def _manager(self, board: BoardInfo, meters: Sequence[PowerMeter]) -> Manager:
        config = self.config
        settings = Settings(
            board=config.node.board,
            board_folder=config.paths.runtime,
            threads=config.serving.threads,
            max_body_bytes=config.serving.max_body_mb << 20,
            worker_memory_mb=config.serving.worker_memory_mb,
            soak_s=config.deploy.soak_s,
            profile_s=config.deploy.profile_s,
            download_timeout_s=config.deploy.download_timeout_s,
            phase_timeout_s=config.deploy.phase_timeout_s,
            engines=config.paths.state / "engines",
        )
        resources = Resources(
            self.store, self.pool, self.journal, self.telemetry, self.verifier, board, tuple(meters), settings,
            None if board.simulated else power_mode,
        )  # fmt: skip
        return Manager(
            resources,
            str(self.node),
            tuple(str(group) for group in group_targets(config)),
            self.wire,
            self._changed,
            config.power.cap_w,
            lambda: self.power.total_w,
        )

    def _connect(self, manager: Manager, board: BoardInfo) -> None:
        """Wire the control session; without [mqtt] the node is told what to run locally."""
        config = self.config
        if config.mqtt is None:
            self.reporter.attach(manager, board, None)
            return
        outbox = self.outbox = Outbox(
            config.paths.state / "outbox.db", config.telemetry.outbox_mb << 20, self._outbox_event
        )
        self.reporter.outbox_problem = lambda: outbox.problem
        commands = Commands(self.node, manager, config.paths.state / "telemetry.db", outbox.put, self._recent)
        targets = (self.node, *group_targets(config))
        keys = keyring(PublicKey.parse(text) for text in config.trust.command_keys)
        inbox = self.inbox = Inbox(
            targets, keys, self.journal, manager, commands, self.telemetry, self.reporter.refused
        )
        offline = Status(online=False, boot_id=self.boot_id).encode()
        self.link = MqttLink(
            mqtt_settings(config),
            on_message=inbox.handle,
            on_connect=self.reporter.on_connect,
            on_disconnect=self.reporter.on_disconnect,
            will=Will(self.node.status, offline),
        )
        self.reporter.attach(manager, board, self.link)
        for topic in inbox.subscriptions():
            self.link.subscribe(topic, 1)
        self.link.start()
        database = config.paths.state / "telemetry.db"
        uplink = Uplink(self.node, self.boot_id, database, outbox, config.telemetry.publish_s)
        self._spawn(outbox.run(self.link))
        self._spawn(uplink.run())
        endings = self.endings = Endings(self.node, self.boot_id, self.journal, outbox)
        self._spawn(endings.run())
        bindings = self.bindings = Bindings(
            mqtt_settings(config, "bindings"),
            lambda: manager.effective.bindings,
            self.pool.socket_of,
            self._binding_event,
            self.reporter.changed,
        )
        self.reporter.bindings = bindings.statuses
        self._spawn(bindings.run())

    def _plausible_time(self) -> float:
        """Unix seconds; never before this code was written, nor before what a trusted message proved."""
        return max(self.journal.now(), PLAUSIBLE_TIME)

    def _changed(self) -> None:
        self.reporter.changed()
        if self.endings is not None:
            self.endings.look()
        if self.bindings is not None:
            self.bindings.look()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))

    async def _wait(self, stop: asyncio.Event) -> None:
        """Until a signal; a part that ends by itself is a bug that the service manager shall see."""
        stopping = asyncio.get_running_loop().create_task(stop.wait())
        done, _ = await asyncio.wait([stopping, *self.tasks], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        for task in done - {stopping}:
            task.result()
            raise RuntimeError(f"{task.get_coro()} ended")

    async def _stop(self) -> None:
        notify.stopping("stopping")
        await self.front_door.stop()
        await self.control.stop()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        if self.inbox is not None:
            await self.inbox.close()
        await self.pool.close()
        if self.wire is not None:
            await self.wire.close()
        self.reporter.write_snapshot()
        if self.link is not None:
            offline = Status(online=False, boot_id=self.boot_id).encode()
            await self.link.stop((self.node.status, offline))
        if self.outbox is not None:
            self.outbox.close()
        self.journal.close()
        log.info("stopped")
        self.telemetry.event("stopped", "")
        self.telemetry.close()

    async def _feed_watchdog(self) -> None:
        """The loop that serves everything is alive as long as this runs on it."""
        every = notify.watchdog_interval()
        while every is not None:
            notify.watchdog()
            await asyncio.sleep(every)
        await asyncio.Event().wait()

    def _pool_event(self, event: PoolEvent) -> None:
        if event.kind == "stats":
            if event.histogram is not None:
                self.telemetry.latency(
                    event.model, event.version, event.candidate, event.histogram, event.errors
                )
                if self.manager is not None:
                    self.manager.served(event)
            return
        if event.kind == "unwell":
            if self.manager is not None and event.failure is not None:
                self.manager.unwell(event.model, event.candidate.device, event.failure)
            return
        level = logging.INFO if event.kind in ("building", "built") else logging.WARNING
        topic = {"model": event.model, "device": event.candidate.device}
        log.log(level, "%s: worker %s: %s", event.model, event.kind, event.text, extra=topic)
        self.telemetry.event(f"worker-{event.kind}", event.text, event.model)
        self.reporter.changed()

    def _binding_event(self, text: str, model: str) -> None:
        log.info("binding %s", text, extra={"model": model})
        self.telemetry.event("binding", text, model)

    def _outbox_event(self, text: str) -> None:
        log.warning("%s", text)
        self.telemetry.event("outbox", text)

    def _power(self, samples: Sequence[PowerSample]) -> None:
        self.power.add(samples)
        self.telemetry.power(samples)

    def _node_state(self) -> NodeState:
        """For the status page and /metrics."""
        now = self.reporter.snapshot()
        placements = [self.manager.placement(model.name) for model in now.models] if self.manager else []
        energy = {
            placement.model: Energy(measured.joules, measured.energy)
            for placement in placements
            if placement is not None
            for verdict in placement.verdicts
            if verdict.chosen and (measured := verdict.measurement) and measured.joules is not None
        }
        return NodeState(now, self.power.rails, self.power.totals, energy)
