"""Which devices of this node are lost, from what goes wrong on them."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping

from agent.errors import DeviceLost, OverlaidError, one_line

# A device that does its work wrongly so often is lost, too; a transfer may take a minute to fail.
FAILURES, WITHIN_S = 3, 300.0
PROBE_S = 10.0  # between looks at a lost one


class DeviceHealth:
    """Pure but for what it remembers; times in monotonic seconds."""

    def __init__(self) -> None:
        self._lost: dict[str, str] = {}
        self._failures: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=FAILURES))

    @property
    def lost(self) -> Mapping[str, str]:
        """Device: why."""
        return self._lost

    def failed(self, device: str, error: OverlaidError, now: float) -> bool:
        """A run or a start failed for the device's sake; True when that makes it a lost one."""
        recent = self._failures[device]
        recent.append(now)
        enough = len(recent) == FAILURES and now - recent[0] <= WITHIN_S
        return (isinstance(error, DeviceLost) or enough) and self.lose(device, error)

    def lose(self, device: str, error: OverlaidError) -> bool:
        """The device is lost; False when it was already."""
        if device in self._lost:
            return False
        self._lost[device] = one_line(error)
        return True

    def found(self, device: str) -> None:
        """The device works again."""
        self._lost.pop(device, None)
        self._failures.pop(device, None)
