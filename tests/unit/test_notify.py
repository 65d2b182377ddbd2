from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import notify


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """The service manager's end of $NOTIFY_SOCKET."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@overlaid-test-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)
        sock.settimeout(5)
        yield sock


def test_each_call_is_one_datagram_in_systemds_format(manager: socket.socket) -> None:
    assert notify.ready("2 models serving")
    assert notify.status("broker gone")
    assert notify.watchdog()
    assert notify.stopping("stopping workers")
    assert [manager.recv(4096) for _ in range(4)] == [
        b"READY=1\nSTATUS=2 models serving",
        b"STATUS=broker gone",
        b"WATCHDOG=1",
        b"STOPPING=1\nSTATUS=stopping workers",
    ]


def test_a_status_text_cannot_add_assignments_or_grow_without_bound(manager: socket.socket) -> None:
    assert notify.status("model failed:\nMAINPID=1\r\n" + "é" * 5000)
    lines = manager.recv(65536).decode().split("\n")
    assert len(lines) == 1
    assert lines[0].startswith("STATUS=model failed: MAINPID=1 é")
    assert len(lines[0]) <= len("STATUS=") + 500


def test_a_manager_that_does_not_read_never_blocks_the_daemon(manager: socket.socket) -> None:
    for _ in range(10_000):
        if not notify.watchdog():
            break
    else:
        pytest.fail("the socket's queue never filled")
    assert manager.recv(4096) == b"WATCHDOG=1"
    assert notify.watchdog()


@pytest.mark.parametrize(
    "address", ["", "relative", "vsock:2:1", "/nowhere/notify", "@nobody-listens-here", "/" * 300]
)
def test_without_a_manager_nothing_happens(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not notify.ready("up")
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert not notify.ready("up")


@pytest.mark.parametrize(
    ("limit", "pid", "expected"),
    [
        ("30000000", "", 15.0),
        pytest.param("30000000", str(os.getpid()), 15.0, id="this process"),
        ("30000000", "1", None),  # meant for another process: a worker inherits the variables
        ("30000000", "not a pid", None),
        ("0", "", None),
        ("", "", None),
        ("-5", "", None),
        ("soon", "", None),
        ("²", "", None),
    ],
)
def test_watchdog_interval_is_half_of_systemds_limit(
    limit: str, pid: str, expected: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", limit)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    assert notify.watchdog_interval() == expected


def test_no_watchdog_outside_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    assert notify.watchdog_interval() is None
