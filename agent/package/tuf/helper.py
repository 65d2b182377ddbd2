"""The process that asks the repository one question: ``python -m agent.package.tuf.helper``, started by ``parent``.

Its standard input and output are a pipe: a line of JSON with the request; lines of JSON that ask for files, each
answered by a line with the size (null: there is none) and so many bytes; a line with what was found, or with the error.
It ends when its input does.
"""

from __future__ import annotations

import base64
import json
import signal
import sys
from pathlib import Path
from typing import Any, BinaryIO

from agent.errors import OverlaidError
from agent.package.tuf.client import Request, find

MAX_LINE = 1 << 20


def main(read: BinaryIO, write: BinaryIO) -> int:
    """Answer one request; 1 when the other end is gone."""

    def say(message: dict[str, Any]) -> None:
        write.write(json.dumps(message).encode() + b"\n")
        write.flush()

    def get(name: str, limit: int) -> bytes | None:
        say({"get": name, "limit": limit})
        size = json.loads(_line(read))["size"]
        if size is None:
            return None
        data = read.read(size)
        if len(data) < size:
            raise EOFError
        return data

    try:
        try:
            found = find(_request(_line(read)), get)
        except OverlaidError as error:
            say({"error": error.name, "text": str(error)})
        else:
            say({"found": {"length": found.length, "sha256": found.sha256, "role": found.role}})
    except (EOFError, BrokenPipeError):
        return 1
    return 0


def _line(read: BinaryIO) -> bytes:
    line = read.readline(MAX_LINE)
    if not line.endswith(b"\n"):
        raise EOFError
    return line


def _request(line: bytes) -> Request:
    fields = json.loads(line)
    return Request(
        base64.b64decode(fields["root"]),
        Path(fields["folder"]),
        fields["now"],
        fields["path"],
        fields["keep_newer"],
    )


if __name__ == "__main__":
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C in a terminal is for the daemon, which ends this one
    sys.exit(main(sys.stdin.buffer, sys.stdout.buffer))
