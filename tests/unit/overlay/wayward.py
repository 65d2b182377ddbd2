"""A transport whose chains run when chance wants, and whose calls fail when it wants."""

from __future__ import annotations

import random
from collections.abc import Sequence

from agent.errors import DeviceLost, OverlayTaken
from agent.hal import Buffer, OverlayTransport
from agent.overlay.spec import Overlay

START, RESET = 1, 2
BUSY = 1


class Wayward:
    """Over a transport whose chains end at once.

    A chain runs in whole when it is started, or as late as somebody looks whether it has ended: who writes its inputs
    or reads its outputs meanwhile is found out by wrong answers. ``failing``: how likely each call is to raise
    DeviceLost; ``taken``: how likely a start is to raise OverlayTaken, after somebody else has left other weights.
    """

    def __init__(
        self, inner: OverlayTransport, spec: Overlay, chance: random.Random, failing: float = 0.0,
        taken: float = 0.0,
    ) -> None:  # fmt: skip
        self.failing, self.taken = failing, taken
        self.closed = False
        self.overlapped = self.starts = 0
        self._inner, self._spec, self._chance = inner, spec, chance
        self._control, self._status = spec.register("CONTROL"), spec.register("STATUS")
        self._pending = 0  # what CONTROL is to be written, later
        self._ran = False  # since the last reset

    def read32(self, offset: int) -> int:
        self._fail()
        if offset == self._status and self._pending and self._chance.random() < 0.3:
            return BUSY
        self._catch_up()
        return self._inner.read32(offset)

    def write32(self, offset: int, value: int) -> None:
        self._fail()
        if offset != self._control:
            assert not self._pending, "a register changes under a running core"
            self._inner.write32(offset, value)
            return
        if value & RESET:
            self._pending, self._ran = 0, False  # what had not run never will
        elif self._ran and self._chance.random() < self.taken:
            self._scribble()
            raise OverlayTaken("by another one")
        elif value & START:
            assert not self._pending, "it is started while it runs"
            self.starts += 1
            self._ran = True
            self._pending = value
            if self._chance.random() < 0.5:
                self._catch_up()
            return
        self._inner.write32(offset, value)

    def allocate(self, nbytes: int) -> Buffer:
        return Watched(self, self._inner.allocate(nbytes))

    def wait(self, timeout_s: float) -> bool:
        self._fail()
        self._catch_up()
        return self._inner.wait(timeout_s)

    def give_way(self) -> None:
        self._inner.give_way()

    def compute_ends(self) -> Sequence[int]:
        return self._inner.compute_ends()

    def close(self) -> None:
        self.closed = True
        self._inner.close()

    @property
    def idle(self) -> bool:
        """Nothing runs."""
        return not self._pending

    def touched(self) -> None:
        """Memory is used; maybe that fails, and maybe the core goes on first."""
        self._fail()
        if self._pending:
            self.overlapped += 1
            if self._chance.random() < 0.3:
                self._catch_up()

    def _catch_up(self) -> None:
        pending, self._pending = self._pending, 0
        if pending:
            self._inner.write32(self._control, pending)

    def _scribble(self) -> None:
        """Another program has run: registers and weights are its own."""
        self._inner.write32(self._control, RESET)
        self._inner._core._datapath.weights[:] = 85  # type: ignore[attr-defined]
        self._ran = False

    def _fail(self) -> None:
        if self._chance.random() < self.failing:
            raise DeviceLost("by chance")


class Watched:
    """A buffer whose use the transport hears of."""

    def __init__(self, owner: Wayward, inner: Buffer) -> None:
        self._owner, self._inner = owner, inner
        self.address, self.nbytes = inner.address, inner.nbytes

    def write(self, offset: int, data: bytes) -> None:
        self._owner.touched()
        self._inner.write(offset, data)

    def read(self, offset: int, nbytes: int) -> bytes:
        self._owner.touched()
        return self._inner.read(offset, nbytes)

    def close(self) -> None:
        self._inner.close()
