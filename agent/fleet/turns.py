"""Blocks that wait to be sent: packages take turns, so that a flood of requests for one does not hold the others up."""

from __future__ import annotations

from collections import OrderedDict

MAX_QUEUED = 8192  # blocks; what does not fit is asked for again

Key = tuple[str, str]  # package, block


class Turns:
    """First come, first served within a package. A package may hold as much as is still free, half of all at most."""

    def __init__(self) -> None:
        self._packages: OrderedDict[str, OrderedDict[str, None]] = OrderedDict()
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def __contains__(self, key: Key) -> bool:
        package, block = key
        return block in self._packages.get(package, ())

    def add(self, key: Key, others: int = 0) -> bool:
        """Queue a block, which may wait already; False when it does not fit. ``others``: blocks that wait elsewhere."""
        package, block = key
        if key in self:
            return True
        if len(self._packages.get(package, ())) >= MAX_QUEUED - others - self._waiting:
            return False
        self._packages.setdefault(package, OrderedDict())[block] = None
        self._waiting += 1
        return True

    def pop(self) -> Key:
        """The next block; KeyError without one."""
        package, queue = self._packages.popitem(last=False)
        block, _ = queue.popitem(last=False)
        self._waiting -= 1
        if queue:
            self._packages[package] = queue  # behind the others
        return package, block

    def clear(self) -> None:
        self._packages.clear()
        self._waiting = 0
