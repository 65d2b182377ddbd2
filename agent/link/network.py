"""The network thread below ``client.MqttLink``: paho-mqtt (MQTT 3.1.1) and the reconnecting.

Every call into paho happens on this thread: paho writes to the socket from whichever thread publishes, and two writers
would mix their packets. Others hand over work through queues; what happens is told to an ``Observer``.
"""

from __future__ import annotations

import contextlib
import logging
import random
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from agent.errors import LinkError
from agent.link.backoff import Backoff
from agent.link.making import make_client
from agent.link.publishing import Publishing
from agent.link.reasons import explain_failure, explain_loss, explain_refusal
from agent.link.values import (
    FAREWELL_TIMEOUT_S,
    MAX_PAYLOAD_BYTES,
    Message,
    MqttSettings,
    Observer,
    Outgoing,
    Will,
)

# Received but not handled; beyond either the socket is not read, so that the broker waits. Few messages, because those
# of another connection wait behind them for the event loop.
MAX_BACKLOG_BYTES = 8 << 20
MAX_BACKLOG = 256

log = logging.getLogger(__name__)


class Network:
    """Connects, keeps and makes the connection again until ``stop``."""

    def __init__(
        self,
        settings: MqttSettings,
        will: Will | None,
        backoff: Backoff,
        rng: random.Random,
        observer: Observer,
    ) -> None:
        self._settings = settings
        self._will = will
        self._backoff = backoff
        self._rng = rng
        self._observer = observer
        self._thread = threading.Thread(target=self._run, name=f"mqtt-{settings.client_id}", daemon=True)
        # Handed over by other threads.
        self.handled = self.handled_bytes = 0
        self._calls: deque[Callable[[], None]] = deque()
        self._publishing = Publishing(observer)
        self._stop = threading.Event()
        self._wake_r, self._wake_w = socket.socketpair()
        self._wake_r.setblocking(False)
        self._wake_w.setblocking(False)
        # This thread's own.
        self._client: Client | None = None
        self._subscriptions: dict[str, int] = {}
        self._subscribing: dict[int, list[str]] = {}
        self._connection = 0
        self._online_since: float | None = None
        self._reason: str | None = None
        self._received = self._received_bytes = 0

    # Called from other threads.

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask for the end; ``Observer.ended`` tells when it came."""
        self._stop.set()
        self._wake()

    def close(self) -> None:
        """Free what a network that was never started holds."""
        self._wake_r.close()
        self._wake_w.close()

    def publish(self, outgoing: Outgoing) -> None:
        self._publishing.put(outgoing)
        self._wake()

    def subscribe(self, topic_filter: str, qos: int) -> None:
        self._call(lambda: self._subscribe(topic_filter, qos))

    def unsubscribe(self, topic_filter: str) -> None:
        self._call(lambda: self._unsubscribe(topic_filter))

    def _call(self, call: Callable[[], None]) -> None:
        self._calls.append(call)
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: awake anyway; closed: ended
            self._wake_w.send(b"\0")

    # The thread.

    def _run(self) -> None:
        attempt = -1
        try:
            while not self._stop.is_set():
                held_s = self._connect_and_serve()
                attempt = self._backoff.after(attempt, held_s)
                self._stop.wait(self._backoff.delay(attempt, self._rng))
        finally:
            self._shut_socket()
            self.close()
            self._observer.ended()

    def _connect_and_serve(self) -> float:
        """One connection from beginning to end; returns for how many seconds it held."""
        self._reason = None
        self._online_since = None
        try:
            if self._client is None:
                self._client = self._build()
            self._client.reconnect()
            self._serve(self._client)
        except (
            Exception
        ) as error:  # whatever the socket, TLS or paho raise ends the connection, not the thread
            if not isinstance(error, (OSError, LinkError)):
                log.exception("MQTT connection to %s failed", self._settings.where)
            self._reason = explain_failure(error, self._settings.host, self._settings.port)
        self._shut_socket()
        accepted = self._online_since is not None
        held_s = time.monotonic() - self._online_since if self._online_since is not None else 0.0
        self._online_since = None
        self._publishing.lose(f"the connection to {self._settings.where} was lost")
        if not self._stop.is_set():
            client_id = self._settings.client_id
            self._observer.offline(
                self._reason or explain_loss(self._settings.where, accepted, held_s, client_id)
            )
        return held_s

    def _build(self) -> Client:
        client = make_client(self._settings, self._will)
        client.on_connect = self._on_connect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        return client

    def _serve(self, client: Client) -> None:
        while not self._stop.is_set():
            sock = client.socket()
            if sock is None:
                return
            readable, writable = self._poll(client, sock)
            if readable:
                client.loop_read()
            if writable:
                client.loop_write()
            client.loop_misc()
            self._publishing.collect()
            if self._online_since is not None:
                self._make_calls()
                self._publishing.hand_over(client)
        if self._online_since is not None:
            self._make_calls()
        client.disconnect()
        deadline = time.monotonic() + FAREWELL_TIMEOUT_S
        while (sock := client.socket()) is not None and time.monotonic() < deadline:
            self._poll(client, sock, 0.1)
            client.loop_write()

    def _poll(self, client: Client, sock: Any, timeout_s: float | None = None) -> tuple[bool, bool]:
        """Wait for the socket or a wake-up; says whether to read and whether to write."""
        full = (
            self._received_bytes - self.handled_bytes > MAX_BACKLOG_BYTES
            or self._received - self.handled > MAX_BACKLOG
        )
        pending = not full and hasattr(sock, "pending") and sock.pending() > 0  # decrypted, unseen by poll
        if timeout_s is None:
            timeout_s = 0.0 if pending else 0.01 if full else min(5.0, self._settings.keepalive_s / 2)
        poll = select.poll()
        poll.register(sock, (0 if full else select.POLLIN) | (select.POLLOUT if client.want_write() else 0))
        poll.register(self._wake_r, select.POLLIN)
        ready = dict(poll.poll(timeout_s * 1000))
        if self._wake_r.fileno() in ready:
            with contextlib.suppress(BlockingIOError):
                self._wake_r.recv(65536)
        got = ready.get(sock.fileno(), 0)
        broken = bool(got & (select.POLLERR | select.POLLHUP | select.POLLNVAL))
        return pending or broken or bool(got & select.POLLIN), bool(got & select.POLLOUT)

    def _shut_socket(self) -> None:
        sock = self._client.socket() if self._client is not None else None
        if sock is not None:
            sock.close()

    def _make_calls(self) -> None:
        while self._calls:
            self._calls.popleft()()

    def _subscribe(self, topic_filter: str, qos: int) -> None:
        self._subscriptions[topic_filter] = qos
        self._send_subscriptions([(topic_filter, qos)])

    def _unsubscribe(self, topic_filter: str) -> None:
        if self._subscriptions.pop(topic_filter, None) is not None and self._client is not None:
            self._client.unsubscribe(topic_filter)

    def _send_subscriptions(self, wanted: list[tuple[str, int]]) -> None:
        assert self._client is not None
        _, mid = self._client.subscribe(wanted)
        if mid is not None:
            self._subscribing[mid] = [topic_filter for topic_filter, _ in wanted]

    # paho's callbacks.

    def _on_connect(
        self,
        _client: Client,
        _data: object,
        _flags: ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self._reason = explain_refusal(reason.value, str(reason), self._settings.where)
            return
        self._connection += 1
        self._online_since = time.monotonic()
        self._subscribing.clear()
        if self._subscriptions:
            self._send_subscriptions(list(self._subscriptions.items()))
        self._observer.online()

    def _on_subscribe(
        self,
        _client: Client,
        _data: object,
        mid: int,
        codes: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        for topic_filter, code in zip(self._subscribing.pop(mid, []), codes, strict=False):
            if code.is_failure:
                log.warning(
                    "%s refused the subscription to %s; check its access list",
                    self._settings.where,
                    topic_filter,
                )
            self._observer.subscribed(topic_filter, not code.is_failure)

    def _on_publish(
        self, _client: Client, _data: object, mid: int, _reason: ReasonCode, _properties: Properties
    ) -> None:
        self._publishing.acknowledged(mid)

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        acknowledge = self._acknowledger(message.mid) if message.qos else lambda: None
        size = len(message.payload)
        try:
            topic = message.topic
        except UnicodeDecodeError:
            log.warning("dropped a message from %s: its topic is not UTF-8", self._settings.where)
            acknowledge()
            return
        if size > MAX_PAYLOAD_BYTES:
            log.warning("dropped %d bytes on %s: more than %d", size, topic[:200], MAX_PAYLOAD_BYTES)
            acknowledge()
            return
        self._received += 1
        self._received_bytes += size
        self._observer.received(Message(topic, bytes(message.payload), message.retain, acknowledge))

    def _acknowledger(self, mid: int) -> Callable[[], None]:
        connection = self._connection
        pending = [mid]

        def send() -> None:
            # After a reconnect the broker delivers again, and the old id may belong to another message.
            if pending and connection == self._connection and self._client is not None:
                self._client.ack(pending.pop(), 1)

        return lambda: self._call(send)
