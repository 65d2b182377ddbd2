"""Publishes on their way: queued by any thread, given to paho by the network thread, settled when paho says so."""

from __future__ import annotations

from collections import deque

from paho.mqtt.client import Client, MQTTMessageInfo
from paho.mqtt.enums import MQTTErrorCode

from agent.errors import LinkError
from agent.link.values import Observer, Outgoing

MAX_INFLIGHT = 100  # QoS 1 on the wire; the rest waits in our queue
MAX_WRITING = 16  # QoS 0 in paho's queue


class Publishing:
    """QoS 1 outlives a lost connection, QoS 0 does not. All but ``put`` belong to the network thread."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._queues: tuple[deque[Outgoing], deque[Outgoing]] = (deque(), deque())  # by QoS
        self._inflight: dict[int, tuple[Outgoing, MQTTMessageInfo]] = {}
        self._writing: deque[tuple[Outgoing, MQTTMessageInfo]] = deque()
        self._acknowledged: list[int] = []

    def put(self, outgoing: Outgoing) -> None:
        """Queue it; from any thread."""
        self._queues[outgoing.qos].append(outgoing)

    def hand_over(self, client: Client) -> None:
        """Give paho what it may have under way; connected."""
        first, second = self._queues
        while first and len(self._writing) < MAX_WRITING and client.socket() is not None:
            outgoing = first.popleft()
            info = client.publish(outgoing.topic, outgoing.payload, 0, outgoing.retain)
            self._writing.append((outgoing, info))
            self.collect()
        while second and len(self._inflight) < MAX_INFLIGHT and client.socket() is not None:
            outgoing = second.popleft()
            info = client.publish(outgoing.topic, outgoing.payload, 1, outgoing.retain)
            if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:  # its id is still in use, 65535 messages later
                second.appendleft(outgoing)
                return
            # paho keeps it, and sends it again after the next reconnect when this attempt to write fails.
            info.rc = MQTTErrorCode.MQTT_ERR_SUCCESS
            self._inflight[info.mid] = (outgoing, info)

    def acknowledged(self, mid: int) -> None:
        """paho's on_publish, which alone cannot tell a QoS 0 from a QoS 1 with the same id."""
        self._acknowledged.append(mid)

    def collect(self) -> None:
        """Settle what paho says is done."""
        for mid in self._acknowledged:
            entry = self._inflight.get(mid)
            if entry is not None and entry[1].is_published():
                del self._inflight[mid]
                self._observer.settled(entry[0], None)
        self._acknowledged.clear()
        while self._writing:
            outgoing, info = self._writing[0]
            if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS or not info.is_published():
                return  # lost ones are settled when the connection has ended
            self._writing.popleft()
            self._observer.settled(outgoing, None)

    def lose(self, why: str) -> None:
        """The connection ended: settle QoS 0 with a LinkError."""
        lost = [outgoing for outgoing, _ in self._writing]
        self._writing.clear()
        while self._queues[0]:
            lost.append(self._queues[0].popleft())
        for outgoing in lost:
            self._observer.settled(outgoing, LinkError(why))
