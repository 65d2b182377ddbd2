"""``overlaid fleet serve``: answers requests for blocks and metadata, keeps desired states published and the
repository's signatures valid, records what nodes say."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agent.errors import MessageError, OverlaidError, StoreError, UsageError, one_line
from agent.fleet.actions import Desk
from agent.fleet.arrivals import Arrival
from agent.fleet.connection import RETAINED_KINDS, link_settings, publish
from agent.fleet.keeper import Keeper, desired_filters
from agent.fleet.log import Log
from agent.fleet.metadata_server import MetadataServer
from agent.fleet.renewal import Renewal
from agent.fleet.repo.store import RepoFiles
from agent.fleet.serve import BlockServer, Packages
from agent.fleet.sizes import SizeProbe
from agent.fleet.tally import describe
from agent.fleet.views import Heard, NodeView, changes, node_filters, stream_filter
from agent.link.backoff import BLOCKS, Backoff
from agent.link.client import Message, MqttLink
from agent.link.messages import Result
from agent.waiting import set_within

MAX_PENDING = 10_000  # messages heard and not yet in the database
COMPLAIN_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds: how long the broker has to show its retained messages, and the periods of keeping, recording and
    renewing."""

    settle_s: float = 2.0
    keep_s: float = 30.0
    record_s: float = 0.2
    renew_s: float = 3600.0
    backoff: Backoff = field(default_factory=Backoff)
    blocks_backoff: Backoff = BLOCKS


@contextlib.contextmanager
def only_one(home: Path) -> Iterator[None]:
    """Hold the home's lock; UsageError when another ``fleet serve`` does. The kernel frees it however we end."""
    path = home / "serve.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; check that this user may write there") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode(errors="replace").strip() or "unknown"
            raise UsageError(
                f"overlaid fleet serve runs on {home} already (process {holder}); one is enough"
            ) from None
        os.truncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield
    finally:
        os.close(descriptor)


async def serve(
    desk: Desk, packages: Packages, log: Log, stop: asyncio.Event, timing: Timing | None = None
) -> None:
    """Run until ``stop`` is set; survives a broker that is away. Raises what a broken database or a bug raises."""
    await _Service(desk, packages, log, timing or Timing()).run(stop)


class _Service:
    """Three connections: a persistent session for results and ends of deployments, one for telemetry, whose backlog
    must not fill the other's queue at the broker, and a clean one for blocks and metadata, where a backlog is
    worthless."""

    def __init__(self, desk: Desk, packages: Packages, log: Log, timing: Timing) -> None:
        self._desk, self._log, self._timing = desk, log, timing
        name = desk.operator.identity
        self._control = MqttLink(
            link_settings(desk.mqtt, f"overlaid-serve-{name}", persistent=True),
            on_message=self._on_message,
            on_connect=self._on_connect,
            on_disconnect=lambda why: log("disconnected", why),
            backoff=timing.backoff,
        )
        self._telemetry = MqttLink(
            link_settings(desk.mqtt, f"overlaid-telemetry-{name}", persistent=True),
            on_message=self._on_message,
            backoff=timing.backoff,
        )
        self._data = MqttLink(
            link_settings(desk.mqtt, f"overlaid-data-{name}"),
            on_message=self._on_request,
            on_disconnect=lambda _why: self._on_data_lost(),
            backoff=timing.blocks_backoff,
        )
        self._blocks = BlockServer(
            desk.site,
            packages,
            lambda topic, frame: self._data.publish(topic, frame, 0),
            log,
            self._wanted_by_several,
        )
        self._metadata = MetadataServer(
            desk.site,
            RepoFiles(desk.home.repo),
            lambda topic, data: self._data.publish(topic, data, 0),
            log,
        )
        self._renewal = Renewal(desk.home, log, timing.renew_s)
        self._links = self._control, self._telemetry, self._data
        self._sizes = SizeProbe(desk.site, self._data, log)
        self._keeper = Keeper(desk.operator, desk.key, self._publish_retained, log)
        self._views: dict[str, NodeView] = desk.operator.views()
        self._pending: list[tuple[Heard, Callable[[], None]]] = []
        self._connected = asyncio.Event()
        self._complained = 0.0
        self._not_shown = 0
        self._answered: dict[tuple[str, str], None] = {}

    async def run(self, stop: asyncio.Event) -> None:
        self._subscribe()
        self._log("started", f"serving site {self._desk.site} through {self._control.settings.where}")
        for link in self._links:
            link.start()
        jobs: list[Awaitable[object]] = [
            self._blocks.run(),
            self._metadata.run(),
            self._renewal.run(),
            self._sizes.run(),
            self._keep(),
            self._record(),
            stop.wait(),
        ]
        tasks = {asyncio.ensure_future(job) for job in jobs}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*(link.stop() for link in self._links))
            self._flush()
            self._log("stopped", "stopped; nodes keep running what they have")

    def _subscribe(self) -> None:
        # What is retained comes again after a reconnect, so QoS 0 loses nothing and fills no queue at the broker.
        for topic in node_filters(self._desk.site, *RETAINED_KINDS):
            self._control.subscribe(topic, 0)
        for topic in desired_filters(self._desk.site):
            self._control.subscribe(topic, 0)
        for topic in (*node_filters(self._desk.site, "result"), stream_filter(self._desk.site, "events")):
            self._control.subscribe(topic, 1)
        self._telemetry.subscribe(stream_filter(self._desk.site, "summary"), 1)
        self._data.subscribe(self._blocks.requests, 0)
        self._data.subscribe(self._metadata.requests, 0)

    def _on_connect(self) -> None:
        self._log("connected", f"connected to {self._control.settings.where}")
        self._keeper.forget()
        self._connected.set()

    async def _publish_retained(self, topic: str, payload: bytes) -> None:
        await publish(self._control, topic, payload, retain=True)

    # -- what arrives --------------------------------------------------------------------------------------------

    def _on_message(self, message: Message) -> None:
        try:
            if message.topic.endswith("/desired"):
                self._keeper.handle(message.topic, message.payload)
                message.ack()
            else:
                self._hear(message)
        except MessageError as error:
            message.ack()  # it would be as wrong the next time
            self._complain(message.topic, error)
        except StoreError as error:
            self._complain(message.topic, error)

    def _on_request(self, message: Message) -> None:
        message.ack()
        if message.topic == self._sizes.topic:
            self._sizes.heard(message.payload)
            return
        try:
            if message.topic == self._metadata.requests:
                self._metadata.handle(message.payload)
            else:
                self._blocks.handle(message.topic, message.payload)
        except MessageError as error:
            self._complain(message.topic, error)

    def _on_data_lost(self) -> None:
        self._blocks.disconnected()
        self._metadata.disconnected()

    def _wanted_by_several(self, digest: str) -> bool:
        try:
            return self._desk.operator.wanted_by_several(digest)
        except OverlaidError as error:
            self._complain("operator.db", error)
            return False

    def _hear(self, message: Message) -> None:
        if len(self._pending) >= MAX_PENDING:
            return  # the database does not keep up: results stay with the broker, the rest comes again
        heard = Heard.parse(self._desk.site, message.topic, message.payload, time.time(), message.retain)
        view = self._views.get(heard.node, NodeView(heard.node))
        self._views[heard.node] = view.after(heard)
        self._pending.append((heard, message.ack))
        for event in changes(view, heard) if self._first(heard) else ():
            self._log(event.kind, f"{event.node}: {event.text}", node=event.node, **event.data)

    def _first(self, heard: Heard) -> bool:
        """False for a result that was heard lately: brokers deliver at least once."""
        if not isinstance(heard.message, Result):
            return True
        key = heard.node, heard.message.id
        known = key in self._answered
        self._answered[key] = None
        if len(self._answered) > MAX_PENDING:
            del self._answered[next(iter(self._answered))]
        return not known

    def _arrived(self, heard: Heard, arrival: Arrival) -> None:
        for end in arrival.ends:
            why = f": {end.why}" if end.why else ""
            text = (
                f"{heard.node}: deployment {end.id} of {end.model} {end.version} ended {end.state.value}{why}"
            )
            self._log(
                "ended", text, node=heard.node, deployment=end.model_dump(mode="json", exclude_none=True)
            )
        if arrival.gap is not None:
            text = f"{heard.node}: telemetry/{heard.stream} {describe([arrival.gap])} did not arrive"
            self._log("gap", text, node=heard.node, stream=heard.stream, gap=list(arrival.gap))

    def _complain(self, topic: str, error: OverlaidError) -> None:
        # One line a second: what anybody may publish must not fill the operator's disk.
        now = time.monotonic()
        if now - self._complained < COMPLAIN_EVERY_S:
            self._not_shown += 1
            return
        more = f" ({self._not_shown} more since the last such line)" if self._not_shown else ""
        self._complained, self._not_shown = now, 0
        self._log("refused", f"{topic[:200]}: {one_line(error)}{more}", topic=topic[:200])

    # -- what is done again and again ----------------------------------------------------------------------------

    async def _keep(self) -> None:
        while True:
            await self._connected.wait()
            self._connected.clear()
            await asyncio.sleep(self._timing.settle_s)
            while not self._connected.is_set():
                if self._control.is_connected:
                    await self._keeper.keep()
                await set_within(self._connected, self._timing.keep_s)

    async def _record(self) -> None:
        while True:
            await asyncio.sleep(self._timing.record_s)
            self._flush()

    def _flush(self) -> None:
        batch, self._pending = self._pending, []
        if not batch:
            return
        try:
            arrived = self._desk.operator.record(heard for heard, _ in batch)
        except StoreError as error:
            self._pending = batch
            self._complain("operator.db", error)
            return
        for _, ack in batch:
            ack()
        for heard, arrival in arrived:
            self._arrived(heard, arrival)
