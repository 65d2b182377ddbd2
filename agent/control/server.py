"""The local control socket: newline-delimited JSON on a Unix socket that the daemon's group may use.

A client sends one request, ``{"op": NAME, ...}``; the server answers ``{"progress": {...}}`` any number of times and
then ``{"ok": {...}}`` or ``{"error": {"name": CLASS, "text": REASON}}``, and closes the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from agent.errors import ControlError, MessageError, OverlaidError
from agent.sockets import Occupied, listen_alone

log = logging.getLogger("control")

MAX_REQUEST_BYTES = 64 * 1024
MAX_CLIENTS = 32
REQUEST_TIMEOUT_S = 5.0
SEND_TIMEOUT_S = 10.0

Handler = Callable[[dict[str, Any]], AsyncIterator[dict[str, Any]]]


class ControlServer:
    """Serves ``handler`` on ``path``. An OverlaidError that the handler raises is sent to the client by name."""

    def __init__(self, path: Path, handler: Handler, *, request_timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        self._path = path
        self._handler = handler
        self._request_timeout_s = request_timeout_s
        self._server: asyncio.AbstractServer | None = None
        self._clients: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Bind and listen. ControlError when another daemon answers there or the path cannot be used."""
        listening = _bind(self._path)
        self._server = await asyncio.start_unix_server(self._serve, sock=listening, limit=MAX_REQUEST_BYTES)

    async def stop(self) -> None:
        """Stop listening, end what is being answered, remove the socket. Harmless before ``start``."""
        if self._server is None:
            return
        self._server.close()
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        self._path.unlink(missing_ok=True)
        self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            if len(self._clients) > MAX_CLIENTS:
                await _send(writer, _error(ControlError(f"{MAX_CLIENTS} clients are connected; try again")))
            else:
                await self._answer(reader, writer)
        except (ConnectionError, asyncio.TimeoutError, asyncio.CancelledError):
            # Gone, not reading, or ended by ``stop``: what is not sent yet would keep the socket open.
            writer.transport.abort()
        finally:
            self._clients.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        final = False
        try:
            request = await self._request(reader)
            async for answer in self._handler(request):
                await _send(writer, answer)
                final = "progress" not in answer
            if not final:
                raise ControlError(f"the daemon gave no answer to {request['op']!r}; see its log")
        except OverlaidError as error:
            await _send(writer, _error(error))
        except (ConnectionError, asyncio.TimeoutError):
            raise
        except Exception as error:
            log.exception("a control request failed")
            await _send(writer, _error(ControlError(f"{type(error).__name__} in the daemon; see its log")))

    async def _request(self, reader: asyncio.StreamReader) -> dict[str, Any]:
        try:
            line = await asyncio.wait_for(reader.readuntil(b"\n"), self._request_timeout_s)
            request = json.loads(line)
        except asyncio.TimeoutError:
            raise MessageError(f"no request within {self._request_timeout_s:g} s") from None
        except asyncio.IncompleteReadError as error:
            if not error.partial:
                raise ConnectionResetError from None
            raise MessageError("the request does not end with a newline") from None
        except asyncio.LimitOverrunError:
            raise MessageError(f"the request is longer than {MAX_REQUEST_BYTES} bytes") from None
        except (ValueError, RecursionError) as error:
            raise MessageError(f"the request is not JSON: {str(error)[:120]}") from error
        if not isinstance(request, dict) or not isinstance(request.get("op"), str):
            raise MessageError('a request is a JSON object with an "op", e.g. {"op": "snapshot"}')
        return request


def _error(error: OverlaidError) -> dict[str, Any]:
    return {"error": {"name": error.name, "text": str(error)}}


async def _send(writer: asyncio.StreamWriter, answer: dict[str, Any]) -> None:
    writer.write(json.dumps(answer).encode() + b"\n")
    await asyncio.wait_for(writer.drain(), SEND_TIMEOUT_S)


def _bind(path: Path) -> socket.socket:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return listen_alone(path, socket.SOCK_STREAM, MAX_CLIENTS, "overlaid", "overlaid")
    except OSError as error:
        raise ControlError(
            f"cannot make the control socket {path}: {error.strerror or error}; set paths.runtime to a short, "
            "writable folder"
        ) from error
    except Occupied as error:
        raise ControlError(str(error)) from error
