"""How clients register shared memory: calls of the protocol, and ``shm.sock``, over which a memfd itself is sent.

On ``shm.sock`` (SOCK_SEQPACKET) a request is one packet, a JSON object and a newline: ``{"op": "register", "name": …}``
with the memfd beside it (SCM_RIGHTS), or ``{"op": "unregister", "name": …}``. The answer is ``{"ok": true}`` or
``{"error": …, "status": …}``. What was registered there goes when that connection ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from pathlib import Path
from typing import Any

from agent.errors import OverlaidError, WorkerError, one_line
from agent.serving.door.calls import Call
from agent.serving.door.regions import Region, RegionTable, checked_name, memfd_region, posix_region
from agent.serving.http.messages import Reply, RequestError, json_reply
from agent.serving.http.peers import peer_uid
from agent.serving.processes.channel import Channel, Message
from agent.sockets import Occupied, listen_alone

MAX_CLIENTS = 128
BACKLOG = 16
SWEEP_S = 5.0
OFF = "shared memory is off on this node; set serving.shared_memory = true to allow it"

log = logging.getLogger(__name__)


class SharedMemory:
    """``path``: of ``shm.sock``; None turns shared memory off."""

    def __init__(self, path: Path | None) -> None:
        self.table = RegionTable()
        self._path = path
        self._listener: socket.socket | None = None
        self._clients: set[_Client] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeping: asyncio.Task[None] | None = None

    @property
    def on(self) -> bool:
        return self._path is not None

    async def start(self) -> None:
        """Listen on ``shm.sock``, if shared memory is on. Raises WorkerError."""
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._listener = listen_alone(self._path, socket.SOCK_SEQPACKET, BACKLOG, "service", "overlaid")
        except (OSError, Occupied) as error:
            raise WorkerError(f"cannot listen on {self._path}: {error}") from error
        self._listener.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept, self._listener)
        self._sweeping = asyncio.create_task(self._sweep(), name="shared memory")

    async def stop(self) -> None:
        """Close the socket, the clients' connections and the memory."""
        if self._listener is not None and self._path is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
            self._path.unlink(missing_ok=True)
        for client in self._clients:
            client.channel.close()
        for task in (*self._tasks, *([self._sweeping] if self._sweeping else [])):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self.table.close()

    async def call(self, call: Call) -> Reply:
        """``/v2/systemsharedmemory/…``: status, register and unregister. Raises RequestError."""
        if not self.on:
            raise RequestError(400, OFF)
        uid, name = call.connection.peer.uid, call.target.subject
        if name is not None:
            checked_name(name)
        if call.target.action == "shm-status":
            await self.table.forget_removed()
            found = self.table.own(uid, name)
            if name is not None and not found:
                raise RequestError(404, f"shared memory region {name[:128]!r} is not registered by this user")
            return json_reply([region.status() for region in found])
        if call.target.action == "shm-register":
            await self.table.add(posix_region(uid, name or "", call.json()))
        else:
            await self.table.remove(uid, name)
        return Reply(200)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, InterruptedError, ConnectionAbortedError):
            sock, _ = listener.accept()
            client = self._admit(sock)
            if client is None:
                sock.close()
                return
            client.channel = Channel(
                sock, lambda message: self._received(client, message), lambda: self._ended(client)
            )
            self._clients.add(client)

    def _admit(self, sock: socket.socket) -> _Client | None:
        """None when there are too many clients, half of them this user's, or its user cannot be told."""
        try:
            uid = peer_uid(sock)
        except RequestError as error:
            log.warning("%s", error)
            return None
        own = sum(client.uid == uid for client in self._clients)
        return _Client(uid) if len(self._clients) < MAX_CLIENTS and own < MAX_CLIENTS // 2 else None

    def _received(self, client: _Client, message: Message) -> None:
        """Raises ValueError, KeyError or TypeError for nonsense: the channel is closed then."""
        op, name = message.head["op"], message.head["name"]
        if op not in ("register", "unregister") or not isinstance(name, str):
            raise ValueError(f"unknown request {op!r}")
        if client.busy:
            raise ValueError("a request before the last one was answered")
        region = None
        if op == "register":
            if not message.fds:
                raise ValueError("a memfd must come with the request")
            try:
                region = memfd_region(client.uid, name, message.fds[0])
            except RequestError as error:
                client.answer(_refusal(error))
                return
        client.busy = True
        self._spawn(self._register(client, region) if region else self._unregister(client, name))

    async def _register(self, client: _Client, region: Region) -> None:
        try:
            await self.table.add(region)
        except OverlaidError as error:
            client.answer(_refusal(error))
            return
        if client.channel.closed:  # it left meanwhile
            await self.table.discard(region)
            return
        client.regions.append(region)
        client.answer({"ok": True})

    async def _unregister(self, client: _Client, name: str) -> None:
        for region in [region for region in client.regions if region.name == name]:
            client.regions.remove(region)
            await self.table.discard(region)
        client.answer({"ok": True})

    def _ended(self, client: _Client) -> None:
        self._clients.discard(client)
        self._spawn(self._forget(client))

    async def _forget(self, client: _Client) -> None:
        for region in client.regions:
            await self.table.discard(region)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            await self.table.forget_removed()


class _Client:
    """A connection to ``shm.sock`` and what was registered over it."""

    channel: Channel

    def __init__(self, uid: int) -> None:
        self.uid = uid
        self.regions: list[Region] = []
        self.busy = False

    def answer(self, value: dict[str, Any]) -> None:
        self.busy = False
        with contextlib.suppress(WorkerError):  # it has gone, or does not read
            self.channel.send(value)


def _refusal(error: OverlaidError) -> dict[str, Any]:
    return {"error": one_line(error), "status": error.status if isinstance(error, RequestError) else 503}
