"""Requests that a browser sends for a page from elsewhere.

A page that somebody on this machine visits can send requests to 127.0.0.1. Browsers say whose page asks (Origin, RFC
6454) with all that may change something; and they keep it from reading answers, unless its own name was made to point
here (DNS rebinding), which shows in Host. Programs send neither; Unix sockets no browser reaches.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from typing import TYPE_CHECKING

from agent.serving.http.messages import Head, RequestError

if TYPE_CHECKING:
    from agent.serving.http.connection import Connection

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:@,\s]+)(?::[0-9]{1,5})?")


def check_site(connection: Connection, head: Head) -> None:
    """RequestError 403 for a request over TCP that was sent for somebody else's page."""
    why = foreign(head.headers.get("host", ""), head.headers.get("origin", ""))
    if why and connection.peer.over_tcp:
        raise RequestError(403, why)


@functools.lru_cache(64)
def foreign(host: str, origin: str) -> str:
    """Why a request with these headers ("" where it has none) was sent for somebody else's page; "" when it was not.

    Pure."""
    if host and not _names_this_machine(host):
        return (
            f"Host {host[:64]!r} is a name that could be anyone's; use localhost or an address (a reverse proxy has to "
            "send Host: localhost)"
        )
    if origin and origin.lower().partition("://")[2] != host.lower():
        return f"requests of web pages from elsewhere (Origin {origin[:64]!r}) are not answered"
    return ""


def _names_this_machine(host: str) -> bool:
    """localhost (RFC 6761, 6.3) or an address: no name server is asked for them."""
    found = _HOST.fullmatch(host.lower())
    if found is None:
        return False
    name = found[1]
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
