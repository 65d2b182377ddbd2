"""A client of paho-mqtt (MQTT 3.1.1) as ``network`` needs it: not connected yet, and never by itself again."""

from __future__ import annotations

import socket
from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from agent.link.publishing import MAX_INFLIGHT
from agent.link.tls import client_context
from agent.link.values import MAX_OUTGOING, MqttSettings, Will

CONNECT_TIMEOUT_S = 10.0


def make_client(settings: MqttSettings, will: Will | None) -> Client:
    """LinkError when a certificate cannot be used."""
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=settings.client_id,
        clean_session=settings.clean_session,
        protocol=MQTTProtocolVersion.MQTTv311,
        reconnect_on_failure=False,
        manual_ack=True,
    )
    client.max_inflight_messages_set(MAX_INFLIGHT)
    client.max_queued_messages_set(MAX_OUTGOING)
    client.connect_timeout = CONNECT_TIMEOUT_S
    if settings.username is not None:
        client.username_pw_set(settings.username, settings.password)
    if settings.ca is not None:
        client.tls_set_context(client_context(settings.ca, settings.cert, settings.key))
    if will is not None:
        client.will_set(will.topic, will.payload, qos=1, retain=True)
    client.on_socket_open = _set_nodelay
    client.connect_async(settings.host, settings.port, settings.keepalive_s)
    return client


def _set_nodelay(_client: Client, _data: object, sock: Any) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
