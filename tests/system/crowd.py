"""Very many connections, from a process of its own that may have the descriptors for them.

``python -m tests.system.crowd COUNT PORT PATH…``: opens COUNT connections, to the TCP port and the Unix sockets in
turn, each with the beginning of a request or nothing; says how many it could open; holds those that are not closed on
it, and adds a byte to some now and then, until its standard input ends.
"""

from __future__ import annotations

import contextlib
import json
import resource
import select
import socket
import sys
import time

BEGINNINGS = (
    b"",
    b"G",
    b"GET /v2 HTTP/1.1\r\nX: ",
    b"POST /v2/models/double/infer HTTP/1.1\r\nContent-Length: 99\r\n\r\n{",
)
BATCH = 200


def main(count: int, port: int, paths: list[str]) -> None:
    """See above."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 100
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
    )
    held: list[socket.socket] = []
    opened = refused = 0
    for number in range(count):
        where = number % (len(paths) + 1)
        try:
            sock = _connect(port if where == len(paths) else paths[where])
        except OSError:  # no descriptor for it, or more wait already than the kernel keeps
            refused += 1
            continue
        opened += 1
        with contextlib.suppress(OSError):
            sock.send(BEGINNINGS[number // 3 % len(BEGINNINGS)])
        held.append(sock)
        if number % BATCH == 0:
            time.sleep(0.01)  # a flood, but one that a machine of two cores can have beside its other work
    print(json.dumps({"opened": opened, "refused": refused}), flush=True)
    while not select.select([sys.stdin], [], [], 0.2)[0]:
        for sock in held[-300:]:
            with contextlib.suppress(OSError):
                sock.send(b"x")


def _connect(address: int | str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    try:
        sock.settimeout(1.0)
        sock.connect(address if isinstance(address, str) else ("127.0.0.1", address))
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
