"""Why there is no connection to the broker, as one line for people that says what to check. Never holds a secret."""

from __future__ import annotations

import socket
import ssl

from agent.errors import LinkError, one_line

# CONNACK return codes of MQTT 3.1.1, section 3.2.2.3, under the numbers that paho gives them (those of MQTT 5).
_REFUSALS = {
    132: "it does not speak MQTT 3.1.1; check what listens on mqtt.port",
    133: "it does not accept the client id; check node.site and node.name",
    134: "wrong user name or password; check mqtt.username and mqtt.password_file",
    135: "not authorised; check mqtt.username, mqtt.password_file (or mqtt.cert) and the broker's access list",
    136: "it is not available now",
}
UNSTABLE_S = 10.0


def explain_refusal(code: int, name: str, where: str) -> str:
    """The broker answered the login with a refusal."""
    return f"the broker {where} refused the login: {_REFUSALS.get(code, name)}"


def explain_failure(error: Exception, host: str, port: int) -> str:
    """No connection came about, or it ended with an exception."""
    where = f"{host}:{port}"
    match error:
        case LinkError():
            return str(error)
        case ssl.SSLCertVerificationError():
            why = error.verify_message
            return f"the certificate of {where} was refused ({why}); check mqtt.ca, mqtt.host and the clock"
        case ssl.SSLError():
            return (
                f"no TLS with {where} ({(error.reason or 'handshake failed').lower().replace('_', ' ')}); "
                "check that mqtt.port is the broker's TLS port"
            )
        case socket.gaierror():
            return f"the name {host} does not resolve; check mqtt.host and the name server"
        case TimeoutError():
            return f"{where} does not answer; check mqtt.host, the network and firewalls"
        case ConnectionRefusedError():
            return f"nothing listens on {where}; check that the broker runs, mqtt.host and mqtt.port"
        case ConnectionResetError() | BrokenPipeError():
            return explain_loss(where, accepted=False, held_s=0.0, client_id="")
        case OSError():
            return f"cannot connect to {where}: {error.strerror or one_line(error)}; check mqtt.host and the network"
    return f"the connection to {where} ended with {type(error).__name__}: {one_line(error)}"


def explain_loss(where: str, accepted: bool, held_s: float, client_id: str) -> str:
    """The connection ended without a reason: before the broker had ``accepted`` the login, or ``held_s`` later."""
    if not accepted:
        return (
            f"{where} closed the connection before it answered; check mqtt.port (TLS or not), mqtt.ca, "
            "mqtt.cert and mqtt.key"
        )
    if held_s < UNSTABLE_S:
        return (
            f"the connection to {where} was lost after {held_s:.1f} s; "
            f"if that repeats, another client uses the id {client_id}, or the broker's log says why"
        )
    return f"the connection to {where} was lost"
