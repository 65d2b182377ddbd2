"""TLS for the connection to the broker: 1.2 or newer, the broker's certificate and name are always checked."""

from __future__ import annotations

import ssl
from pathlib import Path

from agent.errors import LinkError


class _Socket(ssl.SSLSocket):
    """paho drops a socket whose handshake failed without closing it."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


def client_context(ca: Path, cert: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """Trust ``ca`` alone; show ``cert`` and ``key`` when given. LinkError names the config key that is wrong."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = _Socket
    try:
        context.load_verify_locations(ca)
    except OSError as error:
        raise LinkError(f"mqtt.ca: cannot read certificates from {ca}: {_problem(error)}") from error
    if cert is not None:
        try:
            context.load_cert_chain(cert, key)
        except OSError as error:
            raise LinkError(
                f"mqtt.cert and mqtt.key: {cert} and {key} are not a certificate and its key: {_problem(error)}"
            ) from error
    return context


def _problem(error: OSError) -> str:
    return (error.reason if isinstance(error, ssl.SSLError) else error.strerror) or "not in PEM format"
