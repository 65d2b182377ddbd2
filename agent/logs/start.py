"""Where the log goes: to the journal when stderr is that, else to stderr as ``time level room message``."""

from __future__ import annotations

import logging
from pathlib import Path

from agent.logs.fields import room_of
from agent.logs.journald import JournalHandler, stderr_is_journal


class _Rooms(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.room = room_of(record)
        return True


def start_logging(verbose: bool, state: Path | None = None, identifier: str = "overlaid") -> None:
    """From INFO up, or everything when ``verbose``. ``state``, ``identifier``: see ``JournalHandler``."""
    handler: logging.Handler
    if stderr_is_journal():
        handler = JournalHandler(identifier, state)
    else:
        handler = logging.StreamHandler()
        handler.addFilter(_Rooms())
        handler.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)s %(room)s %(message)s", "%Y-%m-%d %H:%M:%S")
        )
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=True)
