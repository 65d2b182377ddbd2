"""What a worker builds before it can run its model, as the daemon sees it."""

from __future__ import annotations

import time

from agent.devices.building import one_text

BUILD_S = 1800.0  # a TensorRT engine of a large model on a small Jetson takes a good part of it
MOST_TOLD = 20  # things that one worker builds; of more nothing is said


class Building:
    """``what`` is built now; empty when nothing is. ``last_s``, ``total_s``: what builds that are over took."""

    def __init__(self) -> None:
        self.what = ""
        self.last_s = self.total_s = 0.0
        self._since = 0.0
        self._told = 0

    def began(self, what: str) -> bool:
        """Something (else) is built from now on; False when there is nothing to say of it."""
        self._told += 1
        text = one_text(what)
        if self._told > MOST_TOLD or not text:
            return False
        if not self.what:
            self._since = time.monotonic()
        self.what = text
        return True

    def ended(self) -> bool:
        """Nothing is built any more; False when nothing was."""
        if not self.what:
            return False
        self.last_s, self.what = self.seconds, ""
        self.total_s += self.last_s
        return True

    @property
    def seconds(self) -> float:
        """What is built now has taken so far."""
        return time.monotonic() - self._since if self.what else 0.0

    @property
    def left_s(self) -> float:
        """How much longer who waits for the worker waits because of what is built now."""
        return max(0.0, BUILD_S - self.seconds) if self.what else 0.0
