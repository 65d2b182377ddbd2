"""What hardware promises: Protocols only, no code that runs.

Implemented by ``agent.devices`` (real hardware) and ``simulator`` (by name, never as a fall-back). May import types and
errors; numpy only for type checking, because the daemon imports this room and never numpy.
"""

from agent.hal.board import Board
from agent.hal.device import Device, ModelFile, Run, Session
from agent.hal.overlay import Buffer, OverlayTransport, ReloadableTransport
from agent.hal.power import PowerMeter

__all__ = [
    "Board", "Buffer", "Device", "ModelFile", "OverlayTransport", "PowerMeter", "ReloadableTransport", "Run", "Session",
]  # fmt: skip
