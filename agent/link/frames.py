"""A block on the wire, and what a fetcher counts of what it sees (docs/wire.md)."""

from __future__ import annotations

from dataclasses import dataclass

from agent.errors import BlockError, MessageError
from agent.link.values import MAX_PAYLOAD_BYTES

DIGEST_BYTES = 32
MAX_DATA_BYTES = MAX_PAYLOAD_BYTES - DIGEST_BYTES


def encode_frame(sha: str, data: bytes) -> bytes:
    """32 raw digest bytes and the block; without a block: "the server does not have it". BlockError when too large."""
    if len(data) > MAX_DATA_BYTES:
        raise BlockError(
            f"block {sha[:12]} has {len(data)} bytes; more than {MAX_DATA_BYTES} do not fit in a message"
        )
    digest = bytes.fromhex(sha)
    if len(digest) != DIGEST_BYTES:
        raise BlockError(f"{sha[:80]!r} is not a SHA-256")
    return digest + data


def decode_frame(frame: bytes) -> tuple[str, bytes]:
    """(digest in hex, block); the block is not checked. Raises MessageError when it is no frame."""
    if not DIGEST_BYTES <= len(frame) <= MAX_PAYLOAD_BYTES:
        raise MessageError(f"block frame: {len(frame)} bytes, not {DIGEST_BYTES} to {MAX_PAYLOAD_BYTES}")
    return frame[:DIGEST_BYTES].hex(), frame[DIGEST_BYTES:]


@dataclass(slots=True)
class Counters:
    """What a fetcher has seen: bytes of all frames, also of those that other nodes asked for; bytes of the blocks
    taken, and of those asked for once more; blocks taken and asked for, frames of no use, wrong ones."""

    bytes_received: int = 0
    bytes_useful: int = 0
    bytes_again: int = 0
    blocks: int = 0
    asked: int = 0
    connections: int = 0
    unwanted: int = 0
    wrong: int = 0

    def add(self, other: Counters) -> None:
        """Add another's to these."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))
