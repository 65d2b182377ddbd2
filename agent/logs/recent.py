"""The daemon's newest lines, kept in memory for the operator: reading the whole machine's journal is no right that the
daemon needs."""

from __future__ import annotations

import logging
import time
from collections import deque

from agent.logs.fields import about_of, room_of
from agent.logs.rows import LogRow

MAX_ROWS = 1000
MAX_TEXT = 2000  # characters


class Recent(logging.Handler):
    """``began``: when it began to listen."""

    def __init__(self) -> None:
        super().__init__()
        self.began = time.time()
        self._rows: deque[LogRow] = deque(maxlen=MAX_ROWS)

    def emit(self, record: logging.LogRecord) -> None:
        """Logging's own contract: raises nothing."""
        try:
            text, topic = self.format(record)[:MAX_TEXT], about_of(record)
        except Exception:
            self.handleError(record)
            return
        self._rows.append(
            LogRow(
                record.created, record.levelname, room_of(record), text,
                topic.model, topic.deployment, topic.device,
            )
        )  # fmt: skip

    def rows(self) -> list[LogRow]:
        """Oldest first."""
        return list(self._rows)
