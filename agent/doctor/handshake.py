"""One try to reach the broker, step by step: name, connection, TLS, login; each with what it met.

The login goes by an id of its own and leaves nothing: the broker ends the session of whoever uses the daemon's id.
"""

from __future__ import annotations

import secrets
import socket
import ssl
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.x509.oid import NameOID

from agent.config import Mqtt
from agent.errors import ConfigError, LinkError
from agent.link.tls import client_context

TIMEOUT_S = 10.0
ALERT_S = 3.0
MAX_PEM_BYTES = 1 << 20
KEEPALIVE_S = 30
ACCEPTED = 0
_CLOSED = (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError)
Step = Literal["files", "name", "connect", "tls", "login", "done"]


@dataclass(frozen=True, slots=True)
class Certificate:
    """Of X.509 (RFC 5280): dates in Unix seconds, ``names``: hosts and addresses that it is for."""

    subject: str
    issuer: str
    not_before: float
    not_after: float
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Attempt:
    """How far it came: ``step`` is the one that failed with ``error``, or "done". ``code``: CONNACK's (MQTT 3.1.1,
    table 3.1), None when none came. ``logged_in``: the login was tried. ``own``, ``authority``: of mqtt.cert and
    mqtt.ca; ``peer``: what the broker showed."""

    step: Step
    error: Exception | None = None
    addresses: tuple[str, ...] = ()
    peer: Certificate | None = None
    own: Certificate | None = None
    authority: tuple[Certificate, ...] = ()
    code: int | None = None
    logged_in: bool = True


@dataclass
class _Trace:
    """What is known so far."""

    attempt: Attempt = field(default_factory=lambda: Attempt("files"))

    def note(self, **changes: object) -> None:
        self.attempt = replace(self.attempt, **changes)  # type: ignore[arg-type]


def attempt(mqtt: Mqtt, login: bool, timeout_s: float = TIMEOUT_S) -> Attempt:
    """Without ``login`` it ends after TLS: then neither password nor key are read."""
    trace = _Trace()
    trace.note(logged_in=login)
    try:
        _go(mqtt, login, timeout_s, trace)
    except (OSError, LinkError, ConfigError, ValueError) as error:  # ssl's errors are OSErrors
        trace.note(error=error)
        if isinstance(error, ssl.SSLCertVerificationError):
            trace.note(peer=_shown_certificate(mqtt, timeout_s))
        elif trace.attempt.step == "login" and mqtt.ca is not None and isinstance(error, _CLOSED):
            trace.note(error=_last_alert(mqtt) or error)
    return trace.attempt


def _go(mqtt: Mqtt, login: bool, timeout_s: float, trace: _Trace) -> None:
    context: ssl.SSLContext | None = None
    if mqtt.ca is not None:
        context = client_context(mqtt.ca)
        trace.note(authority=read_certificates(mqtt.ca))
        if mqtt.cert is not None:
            trace.note(own=next(iter(read_certificates(mqtt.cert)), None))
            if login:
                context = client_context(mqtt.ca, mqtt.cert, mqtt.key)
    password = mqtt.read_password() if login else None
    trace.note(step="name")
    found = socket.getaddrinfo(mqtt.host, mqtt.port, type=socket.SOCK_STREAM)
    trace.note(step="connect", addresses=tuple(dict.fromkeys(str(info[4][0]) for info in found)))
    with socket.create_connection((mqtt.host, mqtt.port), timeout_s) as plain:
        if context is None:
            _log_in(plain, mqtt, password, login, trace)
            return
        trace.note(step="tls")
        with context.wrap_socket(plain, server_hostname=mqtt.host) as secured:
            trace.note(peer=_parsed(secured.getpeercert(binary_form=True)))
            _log_in(secured, mqtt, password, login, trace)


def _log_in(connection: socket.socket, mqtt: Mqtt, password: str | None, login: bool, trace: _Trace) -> None:
    if login:
        trace.note(step="login")
        connection.sendall(connect_packet(f"overlaid-doctor-{secrets.token_hex(4)}", mqtt.username, password))
        answer = b""
        while len(answer) < 4:
            part = connection.recv(4 - len(answer))
            if not part:
                raise ConnectionResetError("closed")
            answer += part
        if answer[:2] != b"\x20\x02":
            raise ValueError("what answers does not speak MQTT 3.1.1")
        trace.note(code=answer[3])
        if answer[3] != ACCEPTED:
            return
        connection.sendall(b"\xe0\x00")  # DISCONNECT
    trace.note(step="done")


def connect_packet(client_id: str, username: str | None, password: str | None) -> bytes:
    """MQTT 3.1.1, section 3.1: clean session, no will. A password goes with a user name only."""
    flags, fields = 0x02, [client_id]
    if username is not None:
        flags, fields = flags | 0x80, [*fields, username]
        if password is not None:
            flags, fields = flags | 0x40, [*fields, password]
    body = b"\x00\x04MQTT\x04" + bytes([flags]) + KEEPALIVE_S.to_bytes(2, "big")
    for text in fields:
        body += len(text.encode()).to_bytes(2, "big") + text.encode()
    length, size = b"", len(body)
    while size or not length:
        size, digit = size >> 7, size & 0x7F
        length += bytes([digit | (0x80 if size else 0)])
    return b"\x10" + length + body


def _shown_certificate(mqtt: Mqtt, timeout_s: float) -> Certificate | None:
    """The certificate that was refused, to tell what is wrong with it; nothing is said on that connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((mqtt.host, mqtt.port), timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=mqtt.host) as secured,
        ):
            return _parsed(secured.getpeercert(binary_form=True))
    except OSError:
        return None


def _last_alert(mqtt: Mqtt) -> OSError | None:
    """Why a broker closes right after the handshake. In TLS 1.3 it judges the client's certificate then, and a packet
    that meets the closed connection resets it before the alert is read: here none is sent."""
    assert mqtt.ca is not None
    context = client_context(mqtt.ca, mqtt.cert, mqtt.key)
    try:
        with (
            socket.create_connection((mqtt.host, mqtt.port), ALERT_S) as plain,
            context.wrap_socket(plain, server_hostname=mqtt.host) as secured,
        ):
            secured.recv(1)
    except ssl.SSLError as error:
        return error
    except OSError:
        pass
    return None


def read_certificates(path: Path) -> tuple[Certificate, ...]:
    """Those of a PEM file; none when it cannot be read."""
    try:
        with path.open("rb") as file:
            loaded = x509.load_pem_x509_certificates(file.read(MAX_PEM_BYTES))
    except (OSError, ValueError):
        return ()
    return tuple(map(_certificate, loaded))


def _parsed(der: bytes | None) -> Certificate | None:
    try:
        return _certificate(x509.load_der_x509_certificate(der)) if der else None
    except ValueError:
        return None


def _certificate(found: x509.Certificate) -> Certificate:
    names: tuple[str, ...] = ()
    try:
        extension = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        pass
    else:
        names = (
            *extension.get_values_for_type(x509.DNSName),
            *map(str, extension.get_values_for_type(x509.IPAddress)),
        )
    return Certificate(
        _common_name(found.subject), _common_name(found.issuer), found.not_valid_before_utc.timestamp(),
        found.not_valid_after_utc.timestamp(), names[:8],
    )  # fmt: skip


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value)[:100] if found else name.rfc4514_string()[:100]
