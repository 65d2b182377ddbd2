"""A transport whose overlay misbehaves, over one that does not."""

from __future__ import annotations

from collections.abc import Sequence

from agent.errors import DeviceLost
from agent.hal import Buffer, OverlayTransport
from agent.overlay.spec import Overlay

BUSY = 1


class FaultyTransport:
    """While ``fault`` is set, the next chain that starts goes wrong in its way:

    - "hang": it never ends, the cycle counter goes on;
    - "dead": it never ends, and the cycle counter stands still;
    - "load", "store": a transfer goes on for ever;
    - "watchdog": the same, until the core's own watchdog ends it;
    - "lost interrupt": it ends, but the interrupt does not arrive;
    - "stuck": a hang that no reset ends;
    - "lost": registers do not answer.
    """

    def __init__(self, inner: OverlayTransport, spec: Overlay, fault: str = "") -> None:
        self.fault = fault
        self.starts = self.resets = 0
        self.closed = False
        self.buffers: list[Buffer] = []
        self._inner, self._spec = inner, spec
        self._hanging = ""
        self._passed = 0

    def read32(self, offset: int) -> int:
        if self.fault == "lost":
            raise DeviceLost("does not answer")
        if not self._hanging:
            return self._inner.read32(offset)
        transfer = {"load": "LOAD_CYCLES", "store": "STORE_CYCLES", "watchdog": "LOAD_CYCLES"}.get(
            self._hanging
        )
        ended = self._hanging == "watchdog" and self._passed
        answers = {
            "STATUS": self._spec.errors["WATCHDOG"] << 8 | 4 if ended else BUSY,
            "CYCLES": 0 if self._hanging == "dead" else self._passed,
        }
        if transfer:
            answers[transfer] = self._passed
        name = next(name for name, register in self._spec.registers.items() if register.offset == offset)
        return answers.get(name, 0)

    def write32(self, offset: int, value: int) -> None:
        if offset == self._spec.register("CONTROL"):
            if value & 2:
                self.resets += 1
                if self.fault != "stuck":
                    self._hanging = ""
            if value & 1:
                self.starts += 1
                self._passed = 0
                self._hanging = self.fault if self.fault != "lost interrupt" else ""
                if self._hanging:
                    return
        self._inner.write32(offset, value)

    def allocate(self, nbytes: int) -> Buffer:
        self.buffers.append(self._inner.allocate(nbytes))
        return self.buffers[-1]

    def wait(self, timeout_s: float) -> bool:
        if self._hanging:
            self._passed += max(int(timeout_s * self._spec.clock.hz), 1)
            return False
        return self._inner.wait(timeout_s) and self.fault != "lost interrupt"

    def give_way(self) -> None:
        self._inner.give_way()

    def compute_ends(self) -> Sequence[int]:
        return self._inner.compute_ends()

    def close(self) -> None:
        self.closed = True
        self._inner.close()
