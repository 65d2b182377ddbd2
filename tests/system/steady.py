"""A client that never stops asking: what it was told while something happened to the node."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from types import TracebackType


class Steady:
    """Asks ``model`` once every ``every_s`` on one keep-alive connection, from a thread, until the block ends; with
    ``fresh`` on a new connection each time.

    ``statuses`` counts the HTTP answers, ``broken`` the connections that broke; ``gap_s`` is the longest time without
    an answer of 200, from the first request to the end.
    """

    def __init__(
        self, port: int, model: str, body: bytes, every_s: float = 0.02, *, fresh: bool = False
    ) -> None:
        self._port, self._path, self._body, self._every_s = port, f"/v2/models/{model}/infer", body, every_s
        self._fresh = fresh
        self.statuses: Counter[int] = Counter()
        self.broken = 0
        self.gap_s = 0.0
        self.retry_after: set[str | None] = set()  # of the 503s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="steady client", daemon=True)

    def __enter__(self) -> Steady:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(20)

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        answered = time.monotonic()
        while not self._stop.wait(self._every_s):
            try:
                connection.request("POST", self._path, self._body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException):
                self.broken += 1
                connection.close()
                continue
            self.statuses[answer.status] += 1
            if self._fresh:
                connection.close()
            if answer.status == 200:
                now = time.monotonic()
                self.gap_s, answered = max(self.gap_s, now - answered), now
            if answer.status == 503:
                self.retry_after.add(answer.headers.get("Retry-After"))
        self.gap_s = max(self.gap_s, time.monotonic() - answered)
        connection.close()
