"""Why the node does not reach its broker: name, connection, TLS, login. Of certificates ``certificates`` judges."""

from __future__ import annotations

import os
import shlex
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

from agent.config import Mqtt
from agent.doctor.certificates import AREA, address, dates, enrol, refused
from agent.doctor.finding import Finding, cause_and_cure, ok, problem, unknown, warning
from agent.doctor.handshake import ACCEPTED, Attempt, attempt
from agent.doctor.subject import Subject
from agent.errors import ConfigError, LinkError, one_line
from agent.link.reasons import explain_failure, explain_loss, explain_refusal

TLS_PORT = 8883
# CONNACK's code (MQTT 3.1.1, table 3.1) as the number by which agent.link.reasons knows it.
CODES = {1: 132, 2: 133, 3: 136, 4: 134, 5: 135}


@dataclass(frozen=True, slots=True)
class Facts:
    """``kept_out``: why no login was tried; "" when it was. ``connected``: the daemon is, at this moment."""

    attempt: Attempt
    now: float
    connected: bool = False
    kept_out: str = ""


def look(mqtt: Mqtt, connected: bool, now: float) -> Facts:
    """``connected``: the daemon is. Then no login is tried: a broker that takes the id of a client from its user name
    would end the daemon's session."""
    kept_out = "" if connected else _unreadable(mqtt)
    return Facts(attempt(mqtt, login=not connected and not kept_out), now, connected, kept_out)


def _unreadable(mqtt: Mqtt) -> str:
    """Which of the daemon's secrets this user may not read; "" when all that are there can be."""
    for key in ("password_file", "key"):
        path = getattr(mqtt, key)
        if path is None or os.access(path, os.R_OK):
            continue
        try:
            path.stat()
        except PermissionError:
            pass
        except OSError:
            continue  # not there: that is the daemon's trouble as well
        return f"mqtt.{key} {path}"
    return ""


def judge(facts: Facts, mqtt: Mqtt, subject: Subject) -> list[Finding]:
    tried = facts.attempt
    found = list(dates(tried, facts.now, mqtt, subject))
    dated = {finding.what for finding in found if finding.level == "problem"}
    match tried.step:
        case "files":
            found.append(_of_files(tried, mqtt, subject))
        case "name":
            found.append(_of_name(tried, mqtt, subject))
        case "connect":
            found.append(_of_connection(tried, mqtt, subject))
        case "tls":
            found.append(_of_tls(facts, mqtt, subject))
        case "login":
            found.append(_of_login(tried, mqtt, subject, own_is_bad=bool(dated)))
        case "done":
            found += _reached(facts, mqtt, subject)
    return found


def _reached(facts: Facts, mqtt: Mqtt, subject: Subject) -> Iterator[Finding]:
    where = address(mqtt)
    if facts.connected:
        yield ok(AREA, f"the daemon is connected to {where}", "no login of the doctor's own was tried")
    elif facts.kept_out:
        yield ok(AREA, f"{where} answers")
        yield unknown(
            AREA,
            f"the login at {where} was not tried",
            f"this user may not read {facts.kept_out}",
            subject.again,
        )
    else:
        yield ok(AREA, f"{where} takes the login")
    if mqtt.ca is None and mqtt.host not in ("localhost", "127.0.0.1", "::1"):
        yield warning(
            AREA, f"the connection to {where} is not encrypted",
            "who listens to the network reads the password and all data; messages stay signed",
            subject.edit("mqtt", "ca", f'ca = "/etc/overlaid/pki/ca.pem", port = {TLS_PORT}'),
        )  # fmt: skip


def _of_files(tried: Attempt, mqtt: Mqtt, subject: Subject) -> Finding:
    text = str(tried.error)
    if isinstance(tried.error, LinkError | ConfigError) and "Permission denied" in text:
        return unknown(AREA, f"{address(mqtt)} was not tried", text, subject.again)
    key = next((key for key in ("password_file", "cert", "ca") if f"mqtt.{key}" in text), "ca")
    cause, cure = cause_and_cure(text)
    return problem(
        AREA, cause, cure or "the daemon cannot connect with it",
        subject.edit("mqtt", key, f"{key}: the file that it names must be what it is for"),
    )  # fmt: skip


def _of_name(tried: Attempt, mqtt: Mqtt, subject: Subject) -> Finding:
    error = tried.error
    if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
        why = "no name server answered: this machine has no network, or a wrong name server"
        return problem(
            AREA, f"the name {mqtt.host} cannot be looked up", why,
            f"resolvectl status; ip route; resolvectl query {mqtt.host}",
        )  # fmt: skip
    return problem(
        AREA, f"the name {mqtt.host} does not resolve", "the name server knows no such host",
        f"getent hosts {mqtt.host}; when the name is wrong: {subject.edit('mqtt', 'host', 'host = the right one')}",
    )  # fmt: skip


def _of_connection(tried: Attempt, mqtt: Mqtt, subject: Subject) -> Finding:
    assert tried.error is not None
    what, _ = cause_and_cure(explain_failure(tried.error, mqtt.host, mqtt.port))
    at = f"{mqtt.host} is {', '.join(tried.addresses[:3])}"
    port = subject.edit("mqtt", "port", f"port = {TLS_PORT if mqtt.ca else 1883}")
    if isinstance(tried.error, ConnectionRefusedError):
        why = f"{at}: that machine answers, and no program listens on the port"
        mend = f"on the broker's machine: sudo systemctl start mosquitto; when the port is wrong: {port}"
    elif isinstance(tried.error, TimeoutError):
        why = f"{at}: it is off, another network's, or a firewall drops the connection"
        mend = (
            f"ping -c 3 {mqtt.host}; nc -vz -w 5 {mqtt.host} {mqtt.port}; when the address is wrong: {port}"
        )
    else:
        why = f"{at}: {one_line(tried.error)}"
        mend = f"ip route get {tried.addresses[0] if tried.addresses else mqtt.host}; ip address"
    return problem(AREA, what, why, mend)


def _of_tls(facts: Facts, mqtt: Mqtt, subject: Subject) -> Finding:
    error, where = facts.attempt.error, address(mqtt)
    if isinstance(error, ssl.SSLCertVerificationError):
        return refused(facts.attempt, facts.now, mqtt, subject, error)
    if isinstance(error, ssl.SSLError) and error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        return problem(
            AREA, f"{where} does not speak TLS", "mqtt.ca turns TLS on; this is another port, or a broker without",
            subject.edit("mqtt", "port", f"port = {TLS_PORT}, or no ca"),
        )  # fmt: skip
    assert error is not None
    if isinstance(error, ConnectionResetError | BrokenPipeError | ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return problem(
            AREA, f"{where} closed the connection during the TLS handshake",
            "a port without TLS does that, or a broker that takes no client from here",
            subject.edit("mqtt", "port", f"port = {TLS_PORT}"),
        )  # fmt: skip
    what, cure = cause_and_cure(explain_failure(error, mqtt.host, mqtt.port))
    return problem(
        AREA, what, cure or "the TLS handshake failed",
        f"openssl s_client -connect {where} -CAfile {shlex.quote(str(mqtt.ca))}",
    )  # fmt: skip


def _of_login(tried: Attempt, mqtt: Mqtt, subject: Subject, own_is_bad: bool) -> Finding:
    where = address(mqtt)
    if tried.code not in (None, ACCEPTED):
        return _of_refusal(tried.code or 0, mqtt, subject)
    error = tried.error
    if isinstance(error, ssl.SSLError) and "CERTIFICATE_REQUIRED" in (error.reason or ""):
        return problem(
            AREA, f"{where} wants a client certificate", "neither mqtt.cert nor mqtt.key are set"
            if mqtt.cert is None else "it did not get the one that is set", enrol(subject),
        )  # fmt: skip
    if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
        said = (error.reason or "").rpartition("ALERT_")[2].lower().replace("_", " ")
        return problem(
            AREA, f"{where} refused this node's certificate: {said}",
            f"mqtt.cert is {mqtt.cert}" + (f", of {tried.own.issuer}" if tried.own else ""), enrol(subject),
        )  # fmt: skip
    if isinstance(error, TimeoutError):
        return problem(
            AREA, f"{where} takes the connection and does not answer the login",
            "another program may listen there, or a TLS port is asked without mqtt.ca",
            f"openssl s_client -connect {where}",
        )  # fmt: skip
    if isinstance(error, ValueError):
        return problem(
            AREA, f"{where} does not speak MQTT 3.1.1", "another program listens there, or a broker for MQTT 5 alone",
            subject.edit("mqtt", "port", f"port = {TLS_PORT if mqtt.ca else 1883}"),
        )  # fmt: skip
    what, cure = cause_and_cure(explain_loss(where, accepted=False, held_s=0.0, client_id=""))
    if mqtt.ca is None and mqtt.port == TLS_PORT:
        cure = f"{TLS_PORT} is usually a TLS port, and without mqtt.ca the node speaks none"
    elif own_is_bad:
        cure = "the broker takes no client whose certificate is not valid"
    elif mqtt.ca is not None and mqtt.cert is None:
        cure = "a broker that wants client certificates does that, and mqtt.cert is not set"
    key = "cert" if mqtt.ca is not None else "ca"
    return problem(AREA, what, cure, subject.edit("mqtt", key, "port, ca, cert and key"))


def _of_refusal(code: int, mqtt: Mqtt, subject: Subject) -> Finding:
    what, cure = cause_and_cure(explain_refusal(CODES.get(code, code), f"code {code}", address(mqtt)))
    user = mqtt.username or ""
    if code == 3:
        return problem(
            AREA, what, "it is overloaded or starting", "on the broker: sudo systemctl status mosquitto"
        )
    if code in (4, 5) and not user and mqtt.cert is None:
        return problem(
            AREA, what, "the node has neither a user name nor a certificate",
            subject.edit("mqtt", "username", 'username = "…" and password_file = "/etc/overlaid/mqtt.password"'),
        )  # fmt: skip
    if code in (4, 5) and user:
        here = (
            f"sudoedit {shlex.quote(str(mqtt.password_file))} && {subject.restart}"
            if mqtt.password_file
            else subject.edit("mqtt", "password", "password")
        )
        return problem(
            AREA, what, f"as user {user}: {cure}",
            f"{here}; on the broker: sudo mosquitto_passwd /etc/mosquitto/passwd {shlex.quote(user)}",
        )  # fmt: skip
    return problem(
        AREA, what, cure or "the broker's log says why", "on the broker: sudo journalctl -u mosquitto -n 50"
    )
