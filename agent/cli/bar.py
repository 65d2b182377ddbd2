"""A progress bar for work that turns out to be long."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PATIENCE_S = 2.0


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None]]:
    """Yields what takes a text and a share (0..1); a bar appears on stderr once two seconds have passed."""
    due = time.monotonic() + PATIENCE_S
    with contextlib.ExitStack() as stack:
        shown: tuple[Progress, TaskID] | None = None

        def update(text: str, share: float) -> None:
            nonlocal shown
            if shown is None and time.monotonic() >= due:
                shown = _open(stack)
            if shown is not None:
                shown[0].update(shown[1], description=text, completed=share)

        yield update


@contextlib.contextmanager
def meanwhile(progress: Callable[[str, float], None], text: str) -> Iterator[None]:
    """Tell ``progress`` the text all the time, for work that tells nothing itself."""
    done = threading.Event()

    def tell() -> None:
        while not done.wait(0.2):
            progress(text, 0.0)

    thread = threading.Thread(target=tell)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextlib.contextmanager
def steady(progress: Callable[[str, float], None]) -> Iterator[Callable[[str, float], None]]:
    """Tells ``progress`` again and again what it was told last: for work with long silences."""
    last: tuple[str, float] | None = None
    lock, done = threading.Lock(), threading.Event()

    def tell(text: str, share: float) -> None:
        nonlocal last
        with lock:
            last = (text, share)
            progress(text, share)

    def repeat() -> None:
        while not done.wait(0.2):
            with lock:
                if last is not None:
                    progress(*last)

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield tell
    finally:
        done.set()
        thread.join()


def _open(stack: contextlib.ExitStack) -> tuple[Progress, TaskID]:
    from rich.console import Console
    from rich.progress import Progress

    bar = stack.enter_context(Progress(console=Console(stderr=True), transient=True))
    return bar, bar.add_task("", total=1.0)
