"""Descriptors as 64 little-endian bytes, packed and unpacked by the fields of ``overlay.toml``."""

from __future__ import annotations

from collections.abc import Mapping

from agent.overlay.spec import DESCRIPTOR_BYTES, Overlay

COUNTS = frozenset({"count_a", "count_b", "count_c", "count_d", "count_e", "count_f"})  # stored as count - 1


def encode(spec: Overlay, values: Mapping[str, int]) -> bytes:
    """A descriptor; fields that ``values`` leaves out are 0 (counts 1). ValueError when a value does not fit."""
    fields = spec.layouts[values["opcode"]]
    descriptor = 0
    for name, value in values.items():
        field = fields[name]
        stored = value - 1 if name in COUNTS else value
        low = -(1 << field.bits - 1) if field.s else 0
        if not low <= stored < low + (1 << field.bits):
            raise ValueError(f"{name} = {value} does not fit in {field.bits} bits")
        descriptor |= (stored & ((1 << field.bits) - 1)) << field.low
    return descriptor.to_bytes(DESCRIPTOR_BYTES, "little")


def decode(spec: Overlay, data: bytes) -> dict[str, int]:
    """Every field of a descriptor; only those that all have when its opcode is unknown."""
    descriptor = int.from_bytes(data, "little")
    values = {}
    for name, field in spec.layouts.get(data[0], spec.descriptor["all"]).items():
        value = (descriptor >> field.low) & ((1 << field.bits) - 1)
        if field.s and value >> (field.bits - 1):
            value -= 1 << field.bits
        values[name] = value + 1 if name in COUNTS else value
    return values
