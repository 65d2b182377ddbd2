"""Whose connection it is: by credentials of Unix sockets, by the kernel's table for loopback TCP."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from agent.serving.http.messages import RequestError
from agent.serving.http.peers import OVERFLOW, find_uid, peer_uid

THERE, HERE = ("127.0.0.1", 0xB2C4), ("127.0.0.1", 8000)
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def line(local: str, remote: str, state: str, uid: int) -> str:
    return (
        f"   9: {local} {remote} {state} 00000000:00000000 00:00000000 00000000  {uid:4d}        0 4711 1\n"
    )


pytestmark = pytest.mark.skipif(
    sys.byteorder != "little", reason="the table below is of a little-endian machine"
)


@pytest.mark.parametrize("prefix", ["", "0000000000000000FFFF0000"])
def test_the_line_of_the_peers_own_end_counts(prefix: str) -> None:
    here, there, other = (f"{prefix}0100007F:{port:04X}" for port in (8000, 0xB2C4, 0xB2C5))
    table = HEAD + line(here, there, "01", 1) + line(other, here, "01", 2) + line(there, here, "01", 1003)
    assert find_uid(table, THERE, HERE) == 1003


@pytest.mark.parametrize("state", ["04", "05", "06", "08", "0A"])
def test_a_socket_that_its_owner_closed_says_nothing(state: str) -> None:
    """The kernel lists it as root's."""
    assert find_uid(HEAD + line("0100007F:B2C4", "0100007F:1F40", state, 0), THERE, HERE) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_users_that_look_alike_are_refused() -> None:
    address = f"\0overlaid-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(address)
        server.listen()
        os.seteuid(int(OVERFLOW.read_text()))  # as which a private user namespace shows everybody
        try:
            client.connect(address)
        finally:
            os.seteuid(0)
        accepted, _ = server.accept()
        with accepted, pytest.raises(RequestError, match="PrivateUsers"):
            peer_uid(accepted)


def test_real_connections() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_uid(ours) == os.getuid()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = server.accept()
        with accepted:
            with client:
                assert peer_uid(accepted) == os.getuid()
            with pytest.raises(RequestError, match="cannot be told"):
                peer_uid(accepted)
        with socket.socket(socket.AF_INET6) as mapped:
            mapped.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            mapped.connect(("::ffff:127.0.0.1", port))
            accepted, _ = server.accept()
            with accepted:
                assert peer_uid(accepted) == os.getuid()
