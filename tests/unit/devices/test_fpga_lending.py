"""Client and service of overlaid-fpga, in one process: what is lent, refused and taken back."""

from __future__ import annotations

import mmap
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.devices import remote_transport
from agent.devices.fpga_service import server, session, wire
from agent.devices.fpga_service.server import Peer, Policy, may_call
from agent.devices.remote_transport import Connection, RemoteTransport, ask_status, open_transport
from agent.errors import DeviceError, DeviceLost, MessageError, OverlayLoadError, RuntimeUnavailable
from agent.overlay.driver import Driver
from agent.overlay.spec import ID, load_spec
from simulator.overlay.functional import FunctionalTransport
from tests.unit.devices.fpga_lending import Lent, copy_overlay, lending
from tests.unit.overlay import handmade

NPU = load_spec("npu")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    copy_overlay("npu", tmp_path / "overlays")
    return tmp_path / "overlays"


@pytest.fixture
def opened(root: Path) -> Iterator[list[Lent]]:
    with lending(root) as opened:
        yield opened


@pytest.fixture
def transport(root: Path, opened: list[Lent]) -> Iterator[RemoteTransport]:
    transport = open_transport(root / "npu")
    assert isinstance(transport, RemoteTransport)
    yield transport
    transport.close()


def wait_for(what: Callable[[], bool]) -> None:
    for _ in range(500):
        if what():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def test_a_driver_does_not_see_the_difference(transport: RemoteTransport) -> None:
    source = handmade.tensor("x", 12, 9, 7)
    layer, target = handmade.conv(1, source, 20, (3, 3), pads=(1, 1, 1, 1))
    segment = handmade.conv_segment(NPU, layer, source, target)
    runs = []
    for each in (transport, FunctionalTransport(NPU)):
        driver = Driver(each, NPU)
        loaded = driver.load(handmade.program(NPU, segment))
        runs.append([loaded.run(segment, {"x": handmade.image(seed, source)[None]}) for seed in (2, 3)])
        driver.close()
    for ours, theirs in zip(*runs, strict=True):
        np.testing.assert_array_equal(ours.outputs["y"], theirs.outputs["y"])
        assert (ours.counters, ours.compute_ends) == (theirs.counters, theirs.compute_ends)
        assert len(ours.compute_ends) == 1


def test_an_inference_takes_three_exchanges(
    transport: RemoteTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = handmade.tensor("x", 4, 5, 5)
    layer, target = handmade.conv(1, source, 4, (1, 1))
    segment = handmade.conv_segment(NPU, layer, source, target)
    driver = Driver(transport, NPU)
    loaded = driver.load(handmade.program(NPU, segment))
    loaded.run(segment, {"x": handmade.image(2, source)[None]})
    asked = []
    ask = Connection.ask

    def counted(self: Connection, request: dict[str, object], *rest: float) -> object:
        asked.append(request["op"])
        return ask(self, request, *rest)

    monkeypatch.setattr(Connection, "ask", counted)
    loaded.run(segment, {"x": handmade.image(3, source)[None]})
    assert asked == ["steps", "wait", "steps"]


def test_memory_is_lent_and_cleared(transport: RemoteTransport, opened: list[Lent]) -> None:
    buffer = transport.allocate(5000)
    assert buffer.read(0, 5000) == bytes(5000)  # not what it held before
    buffer.write(10, b"abc")
    assert buffer.read(9, 5) == b"\0abc\0"
    far = opened[0]._core.memory.at(buffer.address, 5000)
    assert far is not None
    far[11] = ord("X")
    assert buffer.read(10, 3) == b"aXc"
    for offset, nbytes in ((-1, 1), (4999, 2), (0, 5001)):
        with pytest.raises(ValueError, match="not in a buffer of 5000"):
            buffer.read(offset, nbytes)
    buffer.close()
    buffer.close()
    assert opened[0]._core.memory.used == 0
    with pytest.raises(ValueError, match="closed"):
        buffer.write(0, b"x")


def test_regions_outside_its_buffers_are_refused(transport: RemoteTransport, opened: list[Lent]) -> None:
    buffer = transport.allocate(4096)
    core = opened[0]
    for base, nbytes in ((buffer.address, 4097), (buffer.address - 64, 64), (0x1000, 64)):
        transport.write32(NPU.register("REGION2_BYTES"), nbytes)
        transport.write32(NPU.register("REGION2_LOW"), base)
        assert transport.read32(NPU.register("REGION2_LOW")) == base
        with pytest.raises(DeviceError, match=r"region 2 .* does not lie in a buffer"):
            transport.write32(NPU.register("CONTROL"), 1)
        assert core.read32(NPU.register("REGION2_LOW")) == 0
        assert core.read32(NPU.register("STATUS")) == 0  # it did not start
    transport.write32(NPU.register("REGION2_LOW"), buffer.address)
    transport.write32(NPU.register("REGION2_BYTES"), 4096)
    buffer.close()
    with pytest.raises(DeviceError, match="region 2"):
        transport.write32(NPU.register("CONTROL"), 1)


def test_registers_outside_the_core_are_refused(transport: RemoteTransport) -> None:
    for offset in (0x1000, 0x1040, 2):
        with pytest.raises(DeviceError, match="no register"):
            transport.read32(offset)
    transport.write32(0x1040, 1)
    with pytest.raises(DeviceError, match="no register at 0x1040"):
        transport.read32(0)
    assert transport.read32(0) == ID
    with pytest.raises(ValueError, match="32 bits"):
        transport.write32(NPU.register("CHAIN"), 1 << 32)


def test_memory_freed_under_a_running_core_is_kept(
    transport: RemoteTransport, opened: list[Lent], monkeypatch: pytest.MonkeyPatch
) -> None:
    core = opened[0]
    buffer, other = transport.allocate(4096), transport.allocate(4096)
    transport.write32(NPU.register("CONTROL"), 1)
    read32 = core.read32
    busy = NPU.register("STATUS")
    monkeypatch.setattr(core, "read32", lambda offset: 1 if offset == busy else read32(offset))
    buffer.close()
    assert core._core.memory.used == 8192
    monkeypatch.setattr(core, "read32", read32)
    transport.write32(NPU.register("CONTROL"), 2)
    other.close()
    assert core._core.memory.used == 0


def test_limits_on_memory(transport: RemoteTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MAX_BYTES", 10_000)
    kept = transport.allocate(6000)
    with pytest.raises(DeviceError, match="no memory for 6000 bytes more: 1 buffers of 6000 bytes are lent"):
        transport.allocate(6000)
    kept.close()
    monkeypatch.setattr(session, "MAX_BUFFERS", 2)
    for _ in range(2):
        transport.allocate(1)
    with pytest.raises(DeviceError, match="2 buffers"):
        transport.allocate(1)


def test_a_client_cannot_shrink_what_the_service_copies_from(transport: RemoteTransport) -> None:
    answer, fd = transport._connection.ask({"op": "allocate", "nbytes": 8192})
    assert fd is not None
    try:
        for size in (0, 4096, 1 << 20):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, size)
        with mmap.mmap(fd, 8192) as memory:
            memory[:3] = b"abc"
        transport.do(("push", answer["buffer"], 0, 8192))
    finally:
        os.close(fd)


def test_who_shares_the_fpga(transport: RemoteTransport, root: Path, opened: list[Lent]) -> None:
    second = open_transport(root / "npu")
    status = ask_status()
    assert (status.model, status.overlay, status.clients) == ("a board", "npu", (os.getpid(),) * 2)
    transport.close()
    wait_for(lambda: len(ask_status().clients) == 1)
    assert not opened[0].closed
    assert second.read32(0) == ID
    second.close()
    wait_for(lambda: not ask_status().clients)
    assert opened[0].closed
    assert ask_status().overlay is None


def test_too_many_sessions(transport: RemoteTransport, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_SESSIONS", 1)
    with pytest.raises(DeviceError, match=rf"lent to 1 clients \(processes {os.getpid()}\); deploy fewer"):
        open_transport(root / "npu")
    transport.close()
    wait_for(lambda: not ask_status().clients)
    open_transport(root / "npu").close()


def test_everything_is_freed_with_the_client(transport: RemoteTransport, opened: list[Lent]) -> None:
    transport.allocate(4096)
    transport.close()
    wait_for(lambda: opened[0].closed)
    wait_for(lambda: not ask_status().clients)
    with pytest.raises(DeviceLost, match="does not answer any more"):
        transport.read32(0)


def test_a_client_that_goes_while_it_waits(
    transport: RemoteTransport, opened: list[Lent], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(timeout_s: float) -> bool:
        time.sleep(timeout_s)
        return False

    monkeypatch.setattr(opened[0], "wait", wait)
    assert transport.wait(0.05) is False
    wire.send(transport._connection._sock, {"op": "wait", "timeout_s": 1.0})
    transport.close()
    wait_for(lambda: opened[0].closed)


def test_folders_that_it_does_not_load_from(root: Path, opened: list[Lent], tmp_path: Path) -> None:
    elsewhere = copy_overlay("npu", tmp_path / "elsewhere")
    with pytest.raises(OverlayLoadError, match="not below"):
        open_transport(elsewhere)
    (root / "npu" / "overlay.toml").chmod(0o666)
    with pytest.raises(OverlayLoadError, match="others than its owner"):
        open_transport(root / "npu")
    (root / "npu" / "overlay.toml").chmod(0o644)
    open_transport(root / "npu").close()
    assert len(opened) == 1
    connection = Connection()
    with pytest.raises(OverlayLoadError, match="no absolute path"):
        connection.ask({"op": "open", "folder": f"{root}/npu/../npu"})
    connection.close()


@pytest.mark.parametrize(
    "packet",
    [
        b"", b"nonsense", b"[]", b"{}", b'{"op": "reboot"}', b'{"op": "status", "more": 1}',
        b'{"op": "steps", "steps": []}', b'{"op": "open", "folder": 3}', b'{"op": "allocate", "nbytes": 0}',
        b'{"op": "steps", "steps": [["write", -1, 0, 0]]}', b'{"op": "steps", "steps": [["jump", 0, 0, 0]]}',
        b'{"op": "wait", "timeout_s": 1e9}', b'{"op": "wait", "timeout_s": NaN}', b"[" * 100_000, b"\xff" * 500,
    ],
)  # fmt: skip
def test_nonsense_ends_the_connection_alone(opened: list[Lent], packet: bytes) -> None:
    connection = Connection()
    connection._sock.send(packet)
    answer, _ = wire.receive(connection._sock)
    assert answer == b"" or b'"MessageError"' in answer
    assert connection._sock.recv(10) == b""
    connection.close()
    assert not ask_status().clients


@given(
    st.binary(max_size=200) | st.from_regex(rb'\{"op": "(steps|wait|open|free)"[^\n]{0,80}\}', fullmatch=True)
)
def test_any_packet_is_a_request_or_named_nonsense(packet: bytes) -> None:
    try:
        wire.parse_request(packet)
    except MessageError as error:
        assert str(error).startswith("a request to the FPGA service: ")


def test_requests_out_of_turn(transport: RemoteTransport) -> None:
    with pytest.raises(MessageError, match="connects again for another"):
        transport._connection.ask({"op": "open", "folder": "/"})
    with pytest.raises(DeviceLost):
        transport.read32(0)


def test_buffers_that_are_not_there(transport: RemoteTransport) -> None:
    buffer = transport.allocate(64)
    for step in (("push", 9, 0, 1), ("pull", buffer._number, 60, 5), ("pull", buffer._number, 0xFFFFFFFF, 1)):
        with pytest.raises(DeviceError, match="not in a buffer"):
            transport.do(step)
    with pytest.raises(DeviceError, match="no buffer 9"):
        transport._connection.ask({"op": "free", "buffer": 9})


def test_a_client_that_says_nothing_is_let_go(opened: list[Lent], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FIRST_REQUEST_S", 0.05)
    connection = Connection()
    assert connection._sock.recv(10) == b""
    connection.close()


def test_too_many_clients(opened: list[Lent], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CLIENTS", 1)
    first = Connection()
    first.ask({"op": "status"})
    second = Connection()
    with pytest.raises(DeviceError, match="1 clients are connected"):
        second.ask({"op": "status"})
    first.close()
    second.close()


def test_a_bug_behind_the_service_has_a_name(
    transport: RemoteTransport, opened: list[Lent], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(offset: int) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(opened[0], "read32", broken)
    with pytest.raises(DeviceError, match="ZeroDivisionError in the FPGA service; see journalctl"):
        transport.read32(0)


@pytest.mark.parametrize(
    ("peer", "allowed"),
    [
        (Peer(1, 0, 0), True),
        (Peer(1, 990, 100), True),
        (Peer(1, 1000, 991), True),
        (Peer(1, 1000, 1000), False),
    ],
)
def test_who_may_call(peer: Peer, allowed: bool) -> None:
    assert may_call(peer, Policy(990, 991, ())) == allowed


def test_a_caller_without_the_right_is_told(opened: list[Lent], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "peer_of", lambda sock: Peer(1, 4000, 4000))
    connection = Connection()
    with pytest.raises(RuntimeUnavailable, match="user 4000 may not use the FPGA"):
        connection.ask({"op": "status"})
    connection.close()


def test_no_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(wire.SOCKET_VARIABLE, str(tmp_path / "s"))
    with pytest.raises(RuntimeUnavailable, match=r"does not answer on .*: systemctl status overlaid-fpga"):
        ask_status()


def test_a_service_that_talks_nonsense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection = Connection.__new__(Connection)
    connection._sock = ours
    for packet in (b"{", b"[]", b'{"error": 3}'):
        if ours.fileno() < 0:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            connection._sock = ours
        theirs.send(packet)
        with pytest.raises(DeviceLost):
            connection.ask({"op": "status"})
        theirs.close()
    monkeypatch.setattr(remote_transport, "ANSWER_S", 0.05)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection._sock = ours
    with pytest.raises(DeviceLost, match="timed out"):
        connection.ask({"op": "status"}, 0.05)
    theirs.close()
