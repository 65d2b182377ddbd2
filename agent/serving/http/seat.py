"""What others can see of a connection: one byte, in memory that outlives the process that serves it."""

from __future__ import annotations

from dataclasses import dataclass

IDLE = 0  # between requests, nothing of the next one was read
BUSY = 1  # something of a request was read
ANSWERING = 2  # something of an answer may have left, or the connection is closed


@dataclass(frozen=True, slots=True)
class Seat:
    """The connection writes ``states[slot]``. Others hold its socket too, so it shuts it down before it closes it."""

    states: bytearray | memoryview
    slot: int
