from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from agent.doctor.port import Listener, judge, look
from agent.doctor.service import Daemon
from tests.unit.doctor.nodes import DAEMON, SOMEBODY, node, only, wrong

DOWN = Daemon("down", "no daemon answers")


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::")])
def test_a_port_that_another_program_has_is_a_problem(
    tmp_path: Path, family: socket.AddressFamily, address: str
) -> None:
    with socket.socket(family) as other:
        other.bind((address, 0))
        other.listen()
        port = other.getsockname()[1]
        listener = look(port)
        found = only(judge(port, listener, DOWN, node(tmp_path, "[serving]\n")))

    assert listener is not None and listener.pid == os.getpid()
    assert found.level == "problem"
    assert f"process {os.getpid()}" in found.what
    assert f"sport = :{port}" in found.mend and f"127.0.0.1:{port + 1}" in found.mend
    assert not wrong(judge(port, look(port), DOWN, node(tmp_path)))


def test_a_connection_to_the_port_is_no_listener() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with socket.create_connection(server.getsockname()) as client:
            assert look(client.getsockname()[1]) is None


def test_the_daemons_own_port_is_fine(tmp_path: Path) -> None:
    known, hidden = Listener(990, 7, 42, "overlaid"), Listener(DAEMON.uid, 7)

    stranger = Listener(1000, 7, 43, "python3")
    running, refused = Daemon("running", snapshot={"pid": 42}), Daemon("refused", "no")

    assert not wrong(judge(8000, known, running, node(tmp_path)))
    assert not wrong(judge(8000, hidden, running, node(tmp_path, viewer=SOMEBODY)))
    # It runs, and this user may neither ask it nor see whose socket that is.
    assert not wrong(judge(8000, hidden, refused, node(tmp_path, viewer=SOMEBODY)))
    assert not wrong(judge(8000, known, Daemon("silent", "no"), node(tmp_path)))
    assert wrong(judge(8000, stranger, running, node(tmp_path)))
    assert wrong(judge(8000, known, DOWN, node(tmp_path)))  # another node's
