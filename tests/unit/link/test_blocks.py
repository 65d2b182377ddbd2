import asyncio
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import BlockError, MessageError
from agent.link.blocks import MAX_DATA_BYTES, MAX_EARLY, Counters, Feed, decode_frame, encode_frame
from agent.link.client import Message, MqttSettings
from agent.link.window import MAX_BYTES


@given(st.binary(max_size=4096))
def test_frames_round_trip(data: bytes) -> None:
    sha = hashlib.sha256(data).hexdigest()
    frame = encode_frame(sha, data)
    assert len(frame) == 32 + len(data)
    assert decode_frame(frame) == (sha, data)


@given(st.binary(max_size=31))
def test_short_frames_are_refused(frame: bytes) -> None:
    with pytest.raises(MessageError, match="block frame"):
        decode_frame(frame)


def test_what_does_not_fit_is_refused() -> None:
    sha = "0" * 64
    assert len(encode_frame(sha, bytes(MAX_DATA_BYTES))) == 1 << 20
    with pytest.raises(BlockError, match="do not fit"):
        encode_frame(sha, bytes(MAX_DATA_BYTES + 1))
    with pytest.raises(MessageError):
        decode_frame(bytes((1 << 20) + 1))
    with pytest.raises(BlockError, match="SHA-256"):
        encode_frame("00", b"")


def kept(*frames: bytes) -> list[bytes]:
    """What a feed keeps of the frames that pass by before its fetch."""
    feed = Feed(MqttSettings("127.0.0.1", 1, "node"), "lab", "a" * 64, Counters(), None)
    for frame in frames:
        feed._receive(Message("data", frame, False, lambda: None))
    asyncio.run(feed.close())
    return list(feed._early.values())


def test_what_passes_by_is_kept_up_to_a_number_and_a_size() -> None:
    small = [encode_frame(f"{number:064x}", b"x") for number in range(MAX_EARLY + 10)]
    assert kept(*small) == small[:MAX_EARLY]
    large = [encode_frame(f"{number:064x}", bytes(MAX_DATA_BYTES)) for number in range(6)]
    assert kept(*large) == large[: MAX_BYTES >> 20]


def test_what_is_no_block_is_not_kept() -> None:
    block = encode_frame("b" * 64, b"data")
    assert kept(b"", b"short", encode_frame("c" * 64, b""), block, block) == [block]
