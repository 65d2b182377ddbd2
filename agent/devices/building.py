"""What a runtime builds for this machine before a model can run, told to whoever waits for it.

Compiling a TensorRT engine takes minutes, OpenCL kernels seconds. A runtime that finds nothing of the kind in
``ModelFile.cache`` calls ``announce`` just before it builds; in a worker process the daemon hears of it, shows it and
waits longer. Elsewhere nobody listens and nothing happens.
"""

from __future__ import annotations

from collections.abc import Callable

MOST = 200  # characters

_listener: Callable[[str], None] | None = None


def announce(what: str) -> None:
    """Say what is being built from now on, e.g. "the TensorRT engine of digits", in any thread.

    It ends with the load, the check or the run that it is a part of.
    """
    if _listener is not None:
        _listener(one_text(what))


def listen(callback: Callable[[str], None] | None) -> None:
    """``callback`` hears of all that is announced in this process from now on, in the thread that announces."""
    global _listener  # noqa: PLW0603
    _listener = callback


def one_text(what: str, most: int = MOST) -> str:
    """One line of at most ``most`` printable characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in what).split())
    return line if len(line) <= most else line[: most - 3] + "..."
