"""Listens, knows who calls, and gives each client a session on the FPGA."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent import notify
from agent.devices.fpga_service.folders import Place, check_folder, files_of
from agent.devices.fpga_service.fpga import Fpga
from agent.devices.fpga_service.session import Session
from agent.devices.fpga_service.wire import (
    MAX_PACKET,
    AllocateRequest,
    AnyRequest,
    FreeRequest,
    OpenRequest,
    StatusRequest,
    StepsRequest,
    WaitRequest,
    parse_request,
    send,
)  # fmt: skip
from agent.errors import DeviceError, MessageError, OverlaidError, OverlayLoadError, RuntimeUnavailable
from agent.hal import OverlayTransport
from agent.overlay.spec import read_spec
from agent.sockets import Occupied, listen_alone

log = logging.getLogger("fpga")

MAX_SESSIONS = 16  # of clients that opened an overlay
MAX_CLIENTS = 24  # with those that only ask
FIRST_REQUEST_S = 5.0  # for a client to say what it wants
SEND_S = 5.0
LOOK_S = 0.5  # between looks at the stop signal and the watchdog
STUCK_S = 60.0  # a request that takes longer hangs in the kernel; systemd shall start the service again
DRAIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Policy:
    """Who may call (root may always) and what is loaded for them: folders below ``roots`` of ``user`` or root."""

    user: int
    group: int
    roots: tuple[Path, ...]
    model: str = ""  # the board's, as it calls itself


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of a socket, as the kernel says (SO_PEERCRED of unix(7))."""

    pid: int
    user: int
    group: int


def peer_of(sock: socket.socket) -> Peer:
    """Who connected."""
    return Peer(*struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)))


def may_call(peer: Peer, policy: Policy) -> bool:
    """Root, the agent's user, and processes of its group."""
    return peer.user in (0, policy.user) or peer.group == policy.group


class Server:
    """``load``: opens the transport to the overlay in a folder."""

    def __init__(
        self, listening: socket.socket, policy: Policy, load: Callable[[Path], OverlayTransport]
    ) -> None:
        self._listening = listening
        self._policy = policy
        self._fpga = Fpga(load, self._check)
        self._clients: dict[threading.Thread, socket.socket] = {}
        self._requests: dict[int, float] = {}  # since when each thread's request is being answered

    def run(self, stop: threading.Event) -> None:
        """Serve until ``stop`` is set; then end every client."""
        self._listening.settimeout(LOOK_S)
        notify.ready("FPGA free")
        while not stop.is_set():
            if not any(time.monotonic() - since > STUCK_S for since in tuple(self._requests.values())):
                notify.watchdog()
            self._clients = {thread: sock for thread, sock in self._clients.items() if thread.is_alive()}
            with contextlib.suppress(TimeoutError):
                self._accept(self._listening.accept()[0])
        notify.stopping("ending the clients")
        for thread, sock in self._clients.items():
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            thread.join(DRAIN_S)

    def _accept(self, sock: socket.socket) -> None:
        sock.settimeout(FIRST_REQUEST_S)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(SEND_S), 0))
        if len(self._clients) >= MAX_CLIENTS:
            with contextlib.suppress(OSError):
                send(sock, _error(DeviceError(f"{MAX_CLIENTS} clients are connected; try again")))
            sock.close()
            return
        thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
        self._clients[thread] = sock
        thread.start()

    def _serve(self, sock: socket.socket) -> None:
        peer = peer_of(sock)
        client = Client(self, sock, peer)
        try:
            if not may_call(peer, self._policy):
                raise RuntimeUnavailable(
                    f"user {peer.user} may not use the FPGA; it is for user {self._policy.user} (the agent's) and root"
                )
            while packet := sock.recv(MAX_PACKET):
                self._requests[threading.get_ident()] = time.monotonic()
                client.answer(packet)
                del self._requests[threading.get_ident()]
        except OverlaidError as error:
            with contextlib.suppress(OSError):
                send(sock, _error(error))
        except OSError as error:  # gone, too slow, or not reading
            log.info("client %d: %s", peer.pid, error)
        finally:
            try:
                client.close()
            finally:
                self._requests.pop(threading.get_ident(), None)
                sock.close()

    def open(self, peer: Peer, folder: str, gone: Callable[[], bool]) -> Session:
        """A client's share of the FPGA, with an overlay on it. Raises DeviceError and what loading raises."""
        real = self._real(folder)
        spec = read_spec(real)
        with self._fpga.monitor:
            if len(self._fpga.clients) >= MAX_SESSIONS:
                processes = ", ".join(map(str, self._fpga.clients))
                raise DeviceError(
                    f"the FPGA is lent to {MAX_SESSIONS} clients (processes {processes}); deploy fewer models on it"
                )
            session = Session(self._fpga, spec, Place(real, spec.id, files_of(real)), peer.pid, gone)
        log.info("process %d (user %d) uses overlay %s from %s", peer.pid, peer.user, spec.id, real)
        return session

    def status(self) -> dict[str, Any]:
        """The answer to a StatusRequest."""
        with self._fpga.monitor:
            loaded = self._fpga.loaded
            return {
                "model": self._policy.model,
                "overlay": loaded.overlay if loaded else None,
                "clients": self._fpga.clients,
            }

    def _real(self, folder: str) -> Path:
        return check_folder(folder, self._policy.roots, {0, self._policy.user})

    def _check(self, place: Place) -> None:
        if self._real(str(place.folder)) != place.folder or files_of(place.folder) != place.files:
            raise OverlayLoadError(f"{place.folder} has changed since it was opened; open it again")


class Client:
    """One connection."""

    def __init__(self, server: Server, sock: socket.socket, peer: Peer) -> None:
        self._server, self._sock, self._peer = server, sock, peer
        self._session: Session | None = None

    def answer(self, packet: bytes) -> None:
        """Do what a packet asks. Raises OSError when the answer cannot be sent, MessageError for nonsense."""
        request, fd = parse_request(packet), None
        try:
            value: Any = self._do(request)
            if isinstance(request, AllocateRequest):
                value, fd = value
            answer = {"ok": value}
        except MessageError:
            raise
        except OverlaidError as error:
            answer = _error(error)
        except Exception as error:
            log.exception("a request of client %d failed", self._peer.pid)
            answer = _error(
                DeviceError(f"{type(error).__name__} in the FPGA service; see journalctl -u overlaid-fpga")
            )
        send(self._sock, answer, fd)

    def close(self) -> None:
        """End the session, if there is one."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _do(self, request: AnyRequest) -> Any:
        if isinstance(request, StatusRequest):
            return self._server.status()
        if isinstance(request, OpenRequest):
            return self._open(request)
        if self._session is None:
            raise MessageError(f"{request.op!r} before an overlay was opened")
        if isinstance(request, StepsRequest):
            return self._session.steps(request)
        if isinstance(request, AllocateRequest):
            return self._session.allocate(request)
        if isinstance(request, FreeRequest):
            return self._session.free(request)
        assert isinstance(request, WaitRequest)
        return self._session.wait(request)

    def _open(self, request: OpenRequest) -> dict[str, Any]:
        if self._session is not None:
            raise MessageError("this client has an overlay; it connects again for another one")
        self._session = self._server.open(self._peer, request.folder, self._gone)
        self._sock.settimeout(None)  # it may keep its session without a word; its end is seen at once
        return {"overlay": self._session.place.overlay}

    def _gone(self) -> bool:
        poll = select.poll()
        poll.register(self._sock, select.POLLHUP | select.POLLRDHUP)
        return bool(poll.poll(0))


def listen(path: Path) -> socket.socket:
    """A socket that the agent's group may use. Raises DeviceError when it cannot be made."""
    try:
        return listen_alone(path, socket.SOCK_SEQPACKET, MAX_CLIENTS, "FPGA service", "overlaid-fpga")
    except OSError as error:
        raise DeviceError(f"cannot listen on {path}: {error.strerror or error}") from error
    except Occupied as error:
        raise DeviceError(str(error)) from error


def _error(error: OverlaidError) -> dict[str, Any]:
    return {"error": {"name": error.name, "text": str(error)}}
