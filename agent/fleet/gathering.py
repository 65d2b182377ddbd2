"""Blocks wait a moment for the nodes of a group: they are told the same at the same instant, but do not all listen yet
when the first of them asks, and every block that one of them misses is sent to all of them again. Pure."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

GATHER_S = 0.4  # after the last node came: what logins over a slow link differ by
MAX_GATHER_S = 3.0  # after the first node asked for blocks: what verification on slow boards differs by
QUIET_S = 5.0
PATIENCE_S = 60.0  # with nodes that know the manifest and do not ask for blocks
MAX_PACKAGES = 256  # remembered


@dataclass(slots=True)
class _Package:
    """``until``: blocks wait; ``limit``: they wait at most; unset before a block is asked for."""

    since: float
    until: float = math.inf
    limit: float = math.inf
    late: bool = False
    blocks: dict[str, None] = field(default_factory=dict)


class Gathering:
    """``several(digest)``: whether more than one node is to have the package. Times are of any steady clock.

    Only the first blocks of a package that was not asked for lately wait; a single node's never do.
    """

    def __init__(self, several: Callable[[str], bool]) -> None:
        self._several = several
        self._waiting: dict[str, _Package] = {}
        self._asked: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return sum(len(package.blocks) for package in self._waiting.values())

    def holds(self, digest: str, sha: str, now: float) -> bool:
        """A block of package ``digest`` is asked for; True when it waits here until it is ``due``.

        The manifest does not wait: asking for it is how a node comes, and so is asking for a block that waits already.
        It is sent again before the blocks, for those who came too late for it.
        """
        before = self._asked.get(digest)
        self._asked[digest] = now
        self._asked.move_to_end(digest)
        if len(self._asked) > MAX_PACKAGES:
            self._asked.popitem(last=False)
        package = self._waiting.get(digest)
        if package is not None:
            package.late |= sha == digest
        else:
            fresh = before is None or now - before > QUIET_S
            if not (fresh and self._several(digest)):
                return False
            package = self._waiting[digest] = _Package(now)
        if sha != digest and not package.blocks:
            package.limit = now + MAX_GATHER_S
        comes = sha == digest or sha in package.blocks or not package.blocks
        if comes and package.limit < math.inf:
            package.until = min(now + GATHER_S, package.limit)
        if sha == digest:
            return False
        package.blocks[sha] = None
        return True

    def due(self, now: float) -> list[tuple[str, str]]:
        """(package, block) whose waiting is over, in the order in which they were asked for."""
        over = [
            digest
            for digest, package in self._waiting.items()
            if package.until <= now or (not package.blocks and now - package.since > PATIENCE_S)
        ]
        found = []
        for digest in over:
            package = self._waiting.pop(digest)
            if package.blocks:
                found += [(digest, sha) for sha in (*([digest] if package.late else []), *package.blocks)]
        return found

    def patience(self, now: float) -> float | None:
        """Seconds until something may be due; None when nothing waits."""
        due = min((package.until for package in self._waiting.values()), default=math.inf)
        return None if due == math.inf else max(0.0, due - now)

    def clear(self) -> None:
        """Nobody waits any more."""
        self._waiting.clear()
        self._asked.clear()
