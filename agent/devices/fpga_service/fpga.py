"""The one FPGA, the sessions that use it, and how it goes from one to the next."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from agent import notify
from agent.devices.fpga_service.folders import Place
from agent.devices.fpga_service.guard import BUSY, SOFT_RESET
from agent.devices.fpga_service.turns import TURN_S, Phase, Turns
from agent.errors import DeviceError, OverlayHung, RuntimeUnavailable
from agent.hal import Buffer, OverlayTransport, ReloadableTransport
from agent.overlay.spec import load_spec

log = logging.getLogger("fpga")

CONTROL, STATUS = (
    load_spec("npu").register(name) for name in ("CONTROL", "STATUS")
)  # of every overlay: see guard
LOOK_S = (
    0.05  # who waits for its turn looks that often at the core, and whether its own client is still there
)
STOP_S = 1.0  # a core drains its transfers within microseconds
PAUSE_S = 50e-6


class Tenant(Protocol):
    """A session, as the FPGA knows it."""

    pid: int
    place: Place

    @property
    def memory(self) -> Sequence[Buffer]:
        """Its buffers, those among them that it has given back and the core may still use."""
        ...

    def lose(self) -> None:
        """Its turn is over: keep what the registers say. DeviceError when they do not answer."""
        ...

    def rest(self) -> None:
        """The core was stopped or loaded anew: nothing uses this session's memory."""
        ...


class Fpga:
    """Everything here, and all use of the transport, needs ``monitor``; it is told when a turn's phase changes."""

    def __init__(
        self, open_transport: Callable[[Path], OverlayTransport], check: Callable[[Place], None]
    ) -> None:
        """``check``: OverlayLoadError when a place is not, or no longer, to be loaded from."""
        self.monitor = threading.Condition()
        self.turns = Turns()
        self._open, self._check = open_transport, check
        self._transport: ReloadableTransport | None = None
        self.loaded: Place | None = None  # None: nothing, or nobody knows
        self._on_core: int | None = None  # whose registers, weights and chain the core has
        self._restless = False  # a core that did not stop may still use memory
        self._tenants: dict[int, Tenant] = {}
        self._doomed: list[Buffer] = []  # of sessions that ended while the core did not stop
        self._numbers = 0

    @property
    def transport(self) -> OverlayTransport:
        """DeviceError when no overlay could be loaded yet."""
        if self._transport is None:
            raise DeviceError("no overlay is loaded")
        return self._transport

    @property
    def clients(self) -> tuple[int, ...]:
        """The processes that have a session."""
        return tuple(tenant.pid for tenant in self._tenants.values())

    def lent(self) -> tuple[int, int]:
        """How many buffers, and bytes of them, all sessions have."""
        buffers = [*self._doomed, *(buffer for tenant in self._tenants.values() for buffer in tenant.memory)]
        return len(buffers), sum(buffer.nbytes for buffer in buffers)

    def enter(self, tenant: Tenant) -> int:
        """The number under which a session asks for its turn."""
        self._numbers += 1
        self._tenants[self._numbers] = tenant
        self._tell()
        return self._numbers

    def take(self, number: int, gone: Callable[[], bool]) -> None:
        """Wait until it is a session's turn; the core is reset then, and has its overlay, if another one ran before.

        Raises OverlayHung when that lasts too long (or its client is ``gone``), and what loading an overlay raises.
        """
        deadline = time.monotonic() + TURN_S
        while (left := self.turns.ask(number, now := time.monotonic())) > 0:
            if now >= deadline or gone():
                self.turns.withdraw(number)
                raise OverlayHung(self._occupied())
            self._look(now)
            self.monitor.wait(min(left, LOOK_S))
        if self._on_core != number:
            try:
                self._hand_over(number)
            except BaseException:
                self.turns.leave(number)
                self.monitor.notify_all()
                raise

    def leave(self, number: int, buffers: Sequence[Buffer]) -> None:
        """A session ends: its memory is freed as soon as the core does not use it."""
        if self._on_core == number:
            self._stop()
            self._on_core = None
        self._doomed += buffers
        self._bury()
        del self._tenants[number]
        self.turns.leave(number)
        self.monitor.notify_all()
        if not self._tenants:
            transport, self._transport, self.loaded = self._transport, None, None
            self._doomed.clear()
            if transport is not None:
                transport.close()
        self._tell()

    def _hand_over(self, number: int) -> None:
        tenant, former = self._tenants[number], self._on_core
        self._on_core = None
        if former is not None:
            with contextlib.suppress(DeviceError):
                self._tenants[former].lose()
        if self.loaded is None or not self._stop() or self.loaded != tenant.place:
            self._load(tenant)
            if not self._stop():  # a core is reset before it is used, as its driver does
                raise OverlayHung(
                    "the core does not stop even after its overlay was loaded anew; restart the board"
                )
        self._on_core = number
        for each in self._tenants.values():
            each.rest()
        self._bury()

    def _load(self, tenant: Tenant) -> None:
        self._check(tenant.place)
        self.loaded = None
        if self._transport is not None:
            self._transport.reload(tenant.place.folder)
        else:
            transport = self._open(tenant.place.folder)
            if not isinstance(transport, ReloadableTransport):
                transport.close()
                raise RuntimeUnavailable(
                    "this transport cannot be lent: it does not load one overlay after another"
                )
            self._transport = transport
        self.loaded, self._restless = tenant.place, False
        log.debug(
            "overlay %s for process %d", self.loaded.overlay, tenant.pid
        )  # may be several times a second

    def _stop(self) -> bool:
        """Reset the core. False when it does not come to rest: then it may use its memory until it is loaded anew."""
        self._restless = True
        assert self._transport is not None
        deadline = time.monotonic() + STOP_S
        with contextlib.suppress(DeviceError):
            self._transport.write32(CONTROL, SOFT_RESET)
            late = False
            while self._restless and not late:
                # Before the look: a process that was held up looks once more.
                late = time.monotonic() > deadline
                self._restless = bool(self._transport.read32(STATUS) & BUSY)
                time.sleep(PAUSE_S * self._restless)
        if self._restless:
            log.error("the core does not stop: it is loaded anew for the next turn")
            self.loaded = None
        return not self._restless

    def _look(self, now: float) -> None:
        """Whether the holder's chain has ended, which the holder may not have asked."""
        if self.turns.phase is Phase.RUNNING:
            with contextlib.suppress(DeviceError):
                if not self.transport.read32(STATUS) & BUSY:
                    self.turns.ended(now)

    def _bury(self) -> None:
        while self._doomed and not self._restless:
            self._doomed.pop().close()

    def _tell(self) -> None:
        count = len(self._tenants)
        notify.status(f"FPGA lent to {count} client{'s' * (count > 1)}" if count else "FPGA free")

    def _occupied(self) -> str:
        holder = self._tenants.get(self.turns.holder) if self.turns.holder is not None else None
        what = "runs a chain" if self.turns.phase is Phase.RUNNING else "has the turn"
        return (
            f"the FPGA did not get free for this process within {TURN_S:g} s: process {holder.pid if holder else '?'} "
            f"{what}, {len(self._tenants)} share it; try again, or deploy fewer models on the FPGA"
        )
