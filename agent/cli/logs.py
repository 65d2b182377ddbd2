"""The daemon's log on stderr: ``time level room message``."""

from __future__ import annotations

import logging


class _Rooms(logging.Filter):
    """Names a record by its room: ``agent.link.client`` → ``link``."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.room = record.name.removeprefix("agent.").split(".")[0]
        return True


def start_logging(verbose: bool) -> None:
    """Send all logs to stderr: from INFO up, or everything when ``verbose``."""
    handler = logging.StreamHandler()
    handler.addFilter(_Rooms())
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)s %(room)s %(message)s", "%Y-%m-%d %H:%M:%S")
    )
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=True)
