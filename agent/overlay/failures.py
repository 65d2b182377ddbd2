"""What went wrong on an overlay, as errors that say what to do next."""

from __future__ import annotations

from agent.errors import DeviceError, DmaTimeout, OverlayFault, OverlayHung
from agent.overlay.chain import Chain, layer_at
from agent.overlay.program import Segment
from agent.overlay.spec import Overlay

ADVICE = {
    "OPCODE": "the program is corrupt: deploy it again",
    "BOUNDS": "the program leaves its memory: compile it again for this overlay",
    "TILE": "a tile is larger than the overlay's buffers: compile the program again for this overlay",
    "AXI": "the memory refused an access: load the overlay again",
    "WATCHDOG": "its descriptors wait for each other: compile the program again, or load the overlay again",
}


def name_of(spec: Overlay) -> str:
    """What messages call the overlay."""
    return f"overlay {spec.id} version {spec.version}"


def error_name(spec: Overlay, code: int) -> str:
    """What overlay.toml calls an error code of STATUS."""
    return next((name for name, value in spec.errors.items() if value == code), f"code {code}")


def hung(spec: Overlay, cycles: int) -> DeviceError:
    """A chain that has not ended after so many cycles."""
    return OverlayHung(
        f"{name_of(spec)} has not ended after {cycles} cycles; it is reset, try again, and load the overlay again "
        "if that does not help"
    )


def dma_timeout(spec: Overlay, cycles: int) -> DeviceError:
    """A transfer that has not ended after so many cycles."""
    return DmaTimeout(
        f"a transfer of {name_of(spec)} did not end within {cycles} cycles; it is reset, try again, and load the "
        "overlay again if that does not help"
    )


def fault(spec: Overlay, segment: Segment, chain: Chain, name: str, index: int) -> DeviceError:
    """A chain that stopped with error ``name`` at descriptor ``index``."""
    opcode = chain.opcodes[index] if index < len(chain.opcodes) else "beyond the chain"
    layer = layer_at(segment, chain, index)
    return OverlayFault(
        f"{name_of(spec)} stopped with error {name} at descriptor {index} ({opcode}{', ' + layer if layer else ''}): "
        f"{ADVICE.get(name, 'load the overlay again')}"
    )
