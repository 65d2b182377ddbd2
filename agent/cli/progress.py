"""A deployment's progress while it happens: a bar on a terminal, a line per phase elsewhere; always on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any


class _Lines:
    """For logs and pipes."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._phase = ""

    def step(self, phase: str, share: float | None) -> None:  # noqa: ARG002 (phases only: shares change often)
        if phase != self._phase:
            self._phase = phase
            print(f"{self._what}: {phase}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Lines stay."""


class _Bar:
    """For people; it goes away at the end."""

    def __init__(self, what: str) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self._what = what
        self._progress = Progress(console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(what, total=None)
        self._progress.start()

    def step(self, phase: str, share: float | None) -> None:
        total = None if share is None else 1.0
        text = f"{self._what}: {phase}"
        self._progress.update(self._task, description=text, total=total, completed=share or 0.0)

    def close(self) -> None:
        self._progress.stop()


def follow(answers: Iterator[dict[str, Any]], what: str) -> Any:
    """Show ``{"progress": {"phase", "share"}}`` answers as they come; the content of the final ``{"ok": …}``.

    Raises what ``answers`` raises.
    """
    display = _Bar(what) if sys.stderr.isatty() else _Lines(what)
    try:
        for answer in answers:
            if "ok" in answer:
                return answer["ok"]
            progress = answer["progress"]
            display.step(str(progress.get("phase") or "QUEUED"), progress.get("share"))
    finally:
        display.close()
    raise AssertionError("unreachable: the client ends with ok or an error")
