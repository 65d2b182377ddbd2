"""Which blocks to ask for next: a window, and what is asked for again. Pure; times are seconds of any steady clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MAX_BLOCKS = 16
MAX_BYTES = 4 << 20
UNKNOWN_SIZE = 1 << 20  # what a block of unknown size counts as
START_S = 2.0
FLOOR_S = 1.5  # above the time for which a server answers a repeated request only once
CAP_S = 30.0


@dataclass(slots=True)
class _Asked:
    size: int
    time: float
    times: int = 1


class Window:
    """At most 16 blocks and 4 MiB asked for at once, in the order of ``wanted`` (digest → bytes, 0 = unknown).

    A block is late when nothing has come for the time-out, or when it alone stays away for four of them: on a slow
    link a window takes longer than one time-out, and asking again would fill the link with the same blocks. The
    time-out is twice the usual time from request to block, doubles when it strikes, and starts at 2 s.
    """

    def __init__(self, wanted: Mapping[str, int]) -> None:
        self._waiting = {sha: size or UNKNOWN_SIZE for sha, size in wanted.items()}
        self._asked: dict[str, _Asked] = {}
        self._last = 0.0
        self._usual_s: float | None = None
        self._timeout_s = START_S

    def __len__(self) -> int:
        return len(self._waiting) + len(self._asked)

    def __contains__(self, sha: str) -> bool:
        return sha in self._waiting or sha in self._asked

    @property
    def asked(self) -> frozenset[str]:
        return frozenset(self._asked)

    def arrived(self, sha: str, now: float) -> None:
        """A wanted block is here, asked for by us or by another node."""
        self._last = now
        asked = self._asked.pop(sha, None)
        if asked is None:
            self._waiting.pop(sha, None)
        elif asked.times == 1:  # else it is unknown which request was answered
            took_s = now - asked.time
            self._usual_s = took_s if self._usual_s is None else 0.75 * self._usual_s + 0.25 * took_s
            self._timeout_s = self._usual_timeout()

    def restart(self) -> None:
        """A new connection: what was asked for on the one before will not come."""
        self._waiting = {sha: asked.size for sha, asked in self._asked.items()} | self._waiting
        self._asked.clear()
        self._timeout_s = self._usual_timeout()

    def request(self, now: float, room: float = float("inf")) -> list[str]:
        """What to ask for now: late blocks, and new ones when half of the window is free. At most 16, and none once
        they have ``room`` bytes."""
        late = []
        for sha in [sha for sha in self._asked if self._patience(sha, now) <= 0]:
            if room <= 0:
                break
            asked = self._asked[sha]
            asked.time = now
            asked.times += 1
            room -= asked.size
            late.append(sha)
        if late:
            self._timeout_s = min(2 * self._timeout_s, CAP_S)
        return late + self._fill(now, room)

    def patience(self, now: float) -> float | None:
        """Seconds until ``request`` may have something to ask for again; None when nothing is under way."""
        return min((max(0.0, self._patience(sha, now)) for sha in self._asked), default=None)

    def _fill(self, now: float, room: float) -> list[str]:
        new: list[str] = []
        if len(self._asked) > MAX_BLOCKS // 2:
            return new
        nbytes = sum(asked.size for asked in self._asked.values())
        for sha, size in self._waiting.items():
            full = len(self._asked) >= MAX_BLOCKS or (nbytes + size > MAX_BYTES and self._asked)
            if full or room <= 0:
                break
            self._asked[sha] = _Asked(size, now)
            nbytes += size
            room -= size
            new.append(sha)
        for sha in new:
            del self._waiting[sha]
        return new

    def _patience(self, sha: str, now: float) -> float:
        asked = self._asked[sha].time
        quiet = max(asked, self._last) + self._timeout_s
        return min(quiet, asked + 4 * self._timeout_s) - now

    def _usual_timeout(self) -> float:
        return START_S if self._usual_s is None else min(max(2 * self._usual_s, FLOOR_S), CAP_S)
