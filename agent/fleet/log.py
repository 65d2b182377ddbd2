"""What ``fleet serve`` says: lines for people on stderr, or one JSON object a line on stdout."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable

Log = Callable[..., None]  # (event, text, **data)


def line_log(json_lines: bool) -> Log:
    """A log that writes each event at once."""

    def log(event: str, text: str, **data: object) -> None:
        now = time.time()
        with contextlib.suppress(BrokenPipeError):  # whoever read it is gone; the service goes on
            if json_lines:
                print(json.dumps({"time": now, "event": event, "text": text, **data}), flush=True)
            else:
                stamp = time.strftime("%H:%M:%S", time.localtime(now))
                # Texts from outside must not steer the terminal.
                shown = "".join(char if char.isprintable() else "?" for char in text)
                print(f"{stamp} {shown}", file=sys.stderr, flush=True)

    return log
