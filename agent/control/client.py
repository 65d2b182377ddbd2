"""The client of the control socket: standard library only, since ``overlaid status`` must answer at once."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.errors import ControlError, DaemonNotRunning, from_name

MAX_ANSWER_BYTES = 16 << 20
TIMEOUT_S = 10.0

Answer = dict[str, Any]


def call(path: Path, op: str, *, timeout_s: float | None = TIMEOUT_S, **args: Any) -> Iterator[Answer]:
    """Send one request and yield its answers, the last of which is ``{"ok": ...}``.

    ``timeout_s`` bounds the wait for each answer. Raises DaemonNotRunning when nobody listens, ControlError when the
    socket may not be used or breaks, and the daemon's own named error when it answers with one.
    """
    with _connect(path, timeout_s) as connection, connection.makefile("rb") as lines:
        with contextlib.suppress(BrokenPipeError):  # refused before it was sent: the reason can still be read
            connection.sendall(json.dumps({"op": op, **args}).encode() + b"\n")
        while True:
            try:
                line = lines.readline(MAX_ANSWER_BYTES)
            except TimeoutError:
                raise ControlError(f"the daemon did not answer within {timeout_s:g} s; see its log") from None
            except ConnectionError:
                line = b""
            answer = _parse(line)
            if "error" in answer:
                raise from_name(str(answer["error"].get("name")), str(answer["error"].get("text")))
            yield answer
            if "ok" in answer:
                return


def ask(path: Path, op: str, *, timeout_s: float | None = TIMEOUT_S, **args: Any) -> Any:
    """The content of the final answer; errors as ``call``."""
    *_, last = call(path, op, timeout_s=timeout_s, **args)
    return last["ok"]


def _connect(path: Path, timeout_s: float | None) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout_s)
    try:
        connection.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        connection.close()
        raise DaemonNotRunning(
            f"no daemon answers on {path}; start it: overlaid run, or systemctl start overlaid"
        ) from None
    except PermissionError:
        connection.close()
        raise ControlError(
            f"you may not use {path}; join its group (sudo usermod -aG overlaid $USER, then log in again) or use sudo"
        ) from None
    except OSError as error:
        connection.close()
        raise ControlError(f"cannot use {path}: {error.strerror or error}; see paths.runtime") from error
    return connection


def _parse(line: bytes) -> Answer:
    if not line:
        raise ControlError("the daemon closed the connection without an answer; see its log")
    if not line.endswith(b"\n"):
        raise ControlError("the daemon's answer was cut off; see its log")
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ControlError(f"the daemon's answer is not JSON: {str(error)[:120]}") from error
    known = isinstance(answer, dict) and (
        "ok" in answer or isinstance(answer.get("progress"), dict) or isinstance(answer.get("error"), dict)
    )
    if not known:
        raise ControlError("the daemon's answer is of no known form; are client and daemon of one version?")
    return dict(answer)
