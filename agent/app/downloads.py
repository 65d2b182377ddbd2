"""Whether blocks may be asked for at this hour."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from agent.hours import LONGEST_S, Look, Span, look, next_start, patience_s

LOOK_S = 30.0  # between two looks at the clock
FORGET_S = 300.0  # nobody looked for so long: what is waited for begins anew


class DownloadHours:
    """``clock``: Unix seconds that may be wrong; ``proven``: the same, but never before a time that has passed for
    sure."""

    def __init__(
        self,
        spans: Sequence[Span],
        clock: Callable[[], float],
        proven: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
        local: Callable[[float], time.struct_time] = time.localtime,
    ) -> None:
        self._spans, self._clock, self._proven = spans, clock, proven
        self._monotonic, self._local = monotonic, local
        self._found, self._looked = Look.OPEN, float("-inf")
        self._since = self._shut = 0.0  # the finding; any finding but OPEN

    @property
    def any(self) -> bool:
        """Whether there are hours to keep to."""
        return bool(self._spans)

    def closed(self) -> str:
        """What is waited for; empty when blocks may be asked for."""
        if not self._spans:
            return ""
        now, steady = self._clock(), self._monotonic()
        at = self._local(now)
        minute = at.tm_hour * 60 + at.tm_min
        found = look(self._spans, minute, now, self._proven())
        afresh = steady - self._looked > FORGET_S
        if found is not self._found or afresh:
            if self._found is Look.OPEN or afresh:
                self._shut = steady
            self._found, self._since = found, steady
        self._looked = steady
        if steady - self._since >= patience_s(found) or steady - self._shut >= LONGEST_S:
            return ""
        if found is Look.UNKNOWN:
            return "waits for the clock to be set, download hours"
        return f"waits for {next_start(self._spans, minute)}, download hours"
