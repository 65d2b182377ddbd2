import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import BlockError, MessageError
from agent.link.blocks import MAX_DATA_BYTES, decode_frame, encode_frame


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
