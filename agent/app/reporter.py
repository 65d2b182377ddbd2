"""The node's state for others: ``reported`` on the wire and the snapshot behind ``overlaid status``."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from agent import __version__, notify
from agent.app.statusline import status_line
from agent.config import Config
from agent.control import snapshot
from agent.deploy.manager import Manager
from agent.errors import StoreError
from agent.link.client import MqttLink
from agent.link.messages import Capabilities, Reported, ReportedBinding, ReportedModel, Status
from agent.link.topics import Target
from agent.telemetry.writer import Telemetry
from agent.types import MAX_MODELS, BindingStatus, BoardInfo, Delivery, ModelStatus, Snapshot
from agent.validation import explain_validation
from agent.waiting import set_within

log = logging.getLogger("link")
MIN_INTERVAL_S = 0.25  # progress is news four times a second, not more
SNAPSHOT_EVERY_S = 5.0


class Reporter:
    """Publishes what changed, coalesced. ``link`` is None on a node without a broker."""

    def __init__(
        self,
        config: Config,
        node: Target,
        boot_id: str,
        telemetry: Telemetry,
        power_w: Callable[[], float | None],
    ) -> None:
        self._config, self._node, self._boot_id = config, node, boot_id
        self._telemetry, self._power_w = telemetry, power_w
        self._started = time.time()
        self._changed = asyncio.Event()
        self._link: MqttLink | None = None
        self._manager: Manager | None = None
        self._board: BoardInfo | None = None
        self._last_models: tuple[ReportedModel, ...] = ()
        self._last_head: tuple[object, ...] = ()
        self._why = ""
        self.bindings: Callable[[], tuple[BindingStatus, ...]] = tuple
        self.delivery: Callable[[], Delivery] = Delivery
        self.outbox_problem: Callable[[], str] = str
        self.connected = False
        self.link_problem = ""

    def attach(self, manager: Manager, board: BoardInfo, link: MqttLink | None) -> None:
        self._manager, self._board, self._link = manager, board, link

    def changed(self) -> None:
        """Something that is reported may have changed."""
        self._changed.set()

    def refused(self, why: str) -> None:
        """The newest desired state was refused as a whole; an empty text takes it back."""
        if why != self._why:
            self._why = why
            self.changed()

    def on_connect(self) -> None:
        """Birth: online, capabilities and the full state, all retained."""
        self.connected, self.link_problem = True, ""
        log.info("connected to the broker")
        self._telemetry.event("broker", "connected")
        assert self._link is not None and self._board is not None
        status = Status(online=True, boot_id=self._boot_id)
        self._link.publish(self._node.status, status.encode(), 1, retain=True)
        capabilities = Capabilities.of(__version__, self._board, self._config.node.groups)
        self._link.publish(self._node.capabilities, capabilities.encode(), 1, retain=True)
        self._last_head = ()
        self.changed()

    def on_disconnect(self, why: str) -> None:
        if why != self.link_problem:
            log.warning("broker: %s", why)
            self._telemetry.event("broker", why)
        self.connected, self.link_problem = False, why
        self.changed()

    async def run(self) -> None:
        """Report changes until cancelled."""
        while True:
            await set_within(self._changed, SNAPSHOT_EVERY_S)
            self._changed.clear()
            now = self.snapshot()
            self._write(now)
            notify.status(status_line(now))
            try:
                self._publish(now)
            except ValidationError as error:  # a text that cannot be sent must not end the daemon
                log.error("the state could not be reported: %s", explain_validation(error))
            await asyncio.sleep(MIN_INTERVAL_S)

    def _publish(self, now: Snapshot) -> None:
        if self._link is None or not self.connected:
            return
        models = tuple(_reported(status) for status in now.models[:MAX_MODELS])
        bindings = [_reported_binding(status) for status in now.bindings]
        head = (now.revision_seen, now.revision_applied, now.power_cap_w, self._why, bindings)
        if head == self._last_head and _news(models) == _news(self._last_models):
            return
        self._last_head, self._last_models = head, models
        reported = Reported(
            revision_seen=now.revision_seen,
            revision_applied=now.revision_applied,
            time=now.time,
            models=list(models),
            power_cap_w=now.power_cap_w,
            why=self._why,
            bindings=bindings,
        )
        self._link.publish(self._node.reported, reported.encode(), 1, retain=True)

    def snapshot(self) -> Snapshot:
        """The node at this instant."""
        config, manager = self._config, self._manager
        problem = manager.problem if manager else ""
        texts = self._why, problem, self.link_problem, self.outbox_problem(), self._telemetry.problem
        warnings = [text for text in texts if text]
        lost = manager.lost_devices if manager else {}
        warnings += [f"device {device} is lost: {why}" for device, why in sorted(lost.items())]
        return Snapshot(
            time=time.time(),
            node=config.node.name,
            site=config.node.site,
            boot_id=self._boot_id,
            agent_version=__version__,
            started=self._started,
            pid=os.getpid(),
            broker=f"{config.mqtt.host}:{config.mqtt.port}" if config.mqtt else "none",
            broker_connected=self.connected,
            revision_seen=manager.revision_seen if manager else 0,
            revision_applied=manager.revision_applied if manager else 0,
            power_cap_w=manager.power_cap_w if manager else None,
            power_w=self._power_w(),
            http=config.serving.http or None,
            models=manager.statuses() if manager else (),
            board=self._board,
            warnings=tuple(warnings),
            bindings=self.bindings(),
            delivery=self.delivery(),
        )

    def write_snapshot(self) -> None:
        """For ``overlaid status`` while the daemon is down."""
        self._write(self.snapshot())

    def _write(self, now: Snapshot) -> None:
        try:
            snapshot.write(self.snapshot_path, now)
        except StoreError:
            return  # the disk is full or read-only: telemetry says so, and status still works over the socket

    @property
    def snapshot_path(self) -> Path:
        return self._config.paths.state / "snapshot.json"


def _reported(status: ModelStatus) -> ReportedModel:
    chosen = status.candidate
    return ReportedModel(
        name=status.name,
        version=status.version,
        state=status.state,
        phase=status.phase,
        progress=None if status.progress is None else round(status.progress, 1),
        why=status.why[:1000],
        device=chosen.device if chosen else None,
        variant=chosen.variant if chosen else None,
        backend=chosen.backend if chosen else None,
        running_version=status.running_version,
        p50_ms=status.p50_ms,
        p99_ms=status.p99_ms,
        received_bytes=status.delivery.received if status.delivery else None,
        asked_again_bytes=status.delivery.asked_again if status.delivery else None,
    )


def _reported_binding(status: BindingStatus) -> ReportedBinding:
    binding = status.binding
    return ReportedBinding(
        input_topic=binding.input_topic,
        model=binding.model,
        output_topic=binding.output_topic,
        state=status.state,
        # What went wrong last may change with each message: that is for the node's own status, and telemetry.
        why="" if status.state == "RUNNING" else status.why[:1000],
    )


def _news(models: tuple[ReportedModel, ...]) -> tuple[ReportedModel, ...]:
    # What moves all the time is no reason by itself to publish the state again.
    still = dict.fromkeys(("p50_ms", "p99_ms", "received_bytes", "asked_again_bytes"))
    return tuple(model.model_copy(update=still) for model in models)
