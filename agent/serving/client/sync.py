"""The client for threads: each call waits for its answer."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from agent.serving.client.address import Address, ended
from agent.serving.client.answers import Answer, Receiver, Results, document
from agent.serving.client.errors import (
    ModelNotFound,
    ModelUnavailable,
    ServiceUnreachable,
    Stale,
    too_late,
)
from agent.serving.client.memory import SharedArrays
from agent.serving.client.requests import Array, InferRequests, Outputs, Request, get, model_path

WAIT_S = 60.0  # for an answer, when the request has no time-out of its own
GRACE_S = 5.0  # the service answers requests that are too late itself


class Client:
    """``address``: ``/run/overlaid/http.sock``, a model's own socket, or ``http://127.0.0.1:8000``.

    ``retry_s``: for so long, requests are sent again that were refused with ModelUnavailable, or that nobody took
    (ServiceUnreachable). Threads and forked processes may share a client: each call has a connection to
    itself. Close it, or use ``with``.
    """

    def __init__(self, address: str | Path, retry_s: float = 0.0) -> None:
        self._address = Address.parse(address)
        self._retry_s = retry_s
        self._memory = SharedArrays(self._address.memory)
        self._requests = InferRequests(self._memory.place)
        self._idle: list[_Link] = []
        self._process = os.getpid()

    def infer(
        self,
        model: str,
        inputs: Mapping[str, ArrayLike],
        outputs: Outputs = None,
        timeout_s: float | None = None,
        priority: int = 0,
    ) -> dict[str, Array]:
        """Run ``model``; output arrays by name.

        ``outputs``: names, or arrays made by ``shared`` to write them into; all of the model's without it.
        ``priority``: 1 is the most urgent. Raises the errors of ``client.errors``.
        """
        wait_s = WAIT_S if timeout_s is None else timeout_s + GRACE_S
        end = time.monotonic() + self._retry_s if self._retry_s else 0.0
        while True:
            try:
                return self._infer(model, inputs, outputs, timeout_s, priority, wait_s)
            except ModelNotFound:
                if not self._memory.renew():
                    raise
            except (ModelUnavailable, ServiceUnreachable) as error:
                pause_s = getattr(error, "retry_after", 0.1)
                if time.monotonic() + pause_s > end:
                    raise
                time.sleep(pause_s)

    def metadata(self, model: str) -> dict[str, Any]:
        """Versions, inputs and outputs of a model."""
        found: dict[str, Any] = self._ask(model_path(model))
        return found

    def ready(self, model: str) -> bool:
        """True when the model would answer now. Raises ServiceUnreachable."""
        try:
            self._ask(model_path(model, "/ready"))
        except (ModelNotFound, ModelUnavailable):
            return False
        return True

    def statistics(self, model: str) -> dict[str, Any]:
        """Counts and times since the model was started, as Triton's statistics extension has them."""
        found: dict[str, Any] = self._ask(model_path(model, "/stats"))["model_stats"][0]
        return found

    def shared(self, shape: Sequence[int] | int, dtype: DTypeLike = np.float32) -> Array:
        """An array of zeros in memory that the model's worker reads and writes in place, until the client is closed.

        Fill it, or a view of it, and give it to ``infer`` as an input or as an output.
        """
        return self._memory.make(shape, dtype)

    def close(self) -> None:
        """Close the connections and unregister shared memory."""
        self._drop_idle()
        self._memory.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _infer(
        self,
        model: str,
        inputs: Mapping[str, ArrayLike],
        outputs: Outputs,
        timeout_s: float | None,
        priority: int,
        wait_s: float,
    ) -> dict[str, Array]:
        request = self._requests.make(model, inputs, outputs, timeout_s, priority)
        link, answer = self._exchange(request, wait_s)
        try:
            return link.results.arrays(answer, outputs)
        finally:
            self._put_back(link, answer)

    def _ask(self, path: str) -> Any:
        link, answer = self._exchange(get(path), WAIT_S)
        try:
            return document(answer)
        finally:
            self._put_back(link, answer)

    def _exchange(self, request: Request, wait_s: float) -> tuple[_Link, Answer]:
        """Over a connection from before; when that has ended meanwhile, once over a new one."""
        if os.getpid() != self._process:  # after a fork these connections are the parent's
            self._process, self._idle = os.getpid(), []
        try:
            link = self._idle.pop()
        except IndexError:
            link = _Link(self._address.connect())
        else:
            try:
                return link, link.exchange(request, wait_s)
            except Stale:  # what has ended one has probably ended all
                self._drop_idle()
                link = _Link(self._address.connect())
        try:
            return link, link.exchange(request, wait_s)
        except Stale as error:
            raise ServiceUnreachable("the service ended the connection before it took the request") from error

    def _drop_idle(self) -> None:
        with contextlib.suppress(IndexError):  # another thread may take one just now
            while True:
                self._idle.pop().close()

    def _put_back(self, link: _Link, answer: Answer) -> None:
        if answer.head.close:
            link.close()
        else:
            self._idle.append(link)


class _Link:
    """One connection, for one call at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self.results = Results()
        self._sock = sock
        self._receiver = Receiver()
        self._wait_s = 0.0

    def exchange(self, request: Request, wait_s: float) -> Answer:
        """Send and receive. Raises Stale, ConnectionLost, DeadlineExceeded; the connection is closed then."""
        try:
            if wait_s != self._wait_s:
                self._limit(wait_s)
            whole = self._send(request)
            return self._receive(whole)
        except BlockingIOError:
            self.close()
            raise too_late(wait_s) from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._sock.close()

    def _limit(self, wait_s: float) -> None:
        """The kernel's time-outs: Python's own would cost a system call more for each of ours."""
        seconds, rest = divmod(wait_s, 1)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(seconds), int(rest * 1e6)))
        self._wait_s = wait_s

    def _send(self, request: Request) -> bool:
        """False when the service does not take all of the request: it may have answered all the same."""
        if ended(self._sock):  # who has ended its side may still take requests, and lose them
            raise Stale
        try:
            sent = self._sock.sendmsg(request.parts)
            for piece in request.unsent(sent):
                self._sock.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def _receive(self, whole: bool) -> Answer:
        receiver, receive = self._receiver, self._sock.recv_into
        receiver.expect()
        while True:
            try:
                count = receive(receiver.buffer())
            except ConnectionResetError:  # there was something of the request that it had not read
                raise receiver.ended(whole=False) from None
            if count == 0:
                raise receiver.ended(whole)
            answer = receiver.received(count)
            if answer is not None:
                return answer
