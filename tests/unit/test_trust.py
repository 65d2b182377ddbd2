"""Envelopes: what was signed comes out, anything else is refused by name."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import BadSignature, MessageError, OverlaidError, TrustError, UnknownKey
from agent.trust import KINDS, PrivateKey, PublicKey, keyring, seal, unseal

KEY = PrivateKey.generate()
KEYS = keyring([KEY.public])


@given(st.sampled_from(KINDS), st.binary(max_size=2000))
def test_what_was_sealed_comes_out_exactly(kind: str, payload: bytes) -> None:
    opened = unseal(kind, seal(kind, payload, KEY), KEYS)
    assert (opened.payload, opened.key_id) == (payload, KEY.public.id)


@given(st.binary(min_size=1, max_size=300), st.data())
def test_any_changed_byte_is_refused(payload: bytes, data: st.DataObject) -> None:
    envelope = bytearray(seal("desired", payload, KEY))
    at = data.draw(st.integers(0, len(envelope) - 1))
    envelope[at] ^= data.draw(st.integers(1, 255))
    try:
        opened = unseal("desired", bytes(envelope), KEYS)
    except OverlaidError:
        return
    assert opened.payload == payload  # e.g. white space of the JSON text around it


@given(st.binary(max_size=500))
def test_noise_is_no_envelope(noise: bytes) -> None:
    with pytest.raises(MessageError):
        unseal("command", noise, KEYS)


def test_a_desired_state_is_not_a_command() -> None:
    envelope = json.loads(seal("desired", b"{}", KEY))
    with pytest.raises(MessageError, match="kind is 'desired'"):
        unseal("command", json.dumps(envelope).encode(), KEYS)
    envelope["kind"] = "command"
    with pytest.raises(BadSignature):
        unseal("command", json.dumps(envelope).encode(), KEYS)


def test_a_stranger_and_a_stranger_with_our_key_id_are_refused() -> None:
    stranger = PrivateKey.generate()
    with pytest.raises(UnknownKey):
        unseal("desired", seal("desired", b"x", stranger), KEYS)
    forged = json.loads(seal("desired", b"x", stranger)) | {"key": KEY.public.id}
    with pytest.raises(BadSignature):
        unseal("desired", json.dumps(forged).encode(), KEYS)


@pytest.mark.parametrize(
    "envelope",
    [
        b"[]",
        b"{}",
        b'{"kind":"desired","key":"k","payload":"!","signature":""}',
        b'{"kind":"desired","key":"k","payload":1,"signature":2}',
        b'{"kind":"desired","key":"k","payload":"","signature":"","more":1}',
        b"[" * 100_000,
        b'{"kind":"desired","key":"\\ud800","payload":"","signature":""}',  # a lone surrogate is no text to send on
    ],
)
def test_malformed_envelopes_are_named(envelope: bytes) -> None:
    with pytest.raises(MessageError, match="not a signed desired"):
        unseal("desired", envelope, KEYS)


def test_keys_have_a_text_form_and_a_file_form(tmp_path: Path) -> None:
    assert PublicKey.parse(str(KEY.public)) == KEY.public
    (tmp_path / "key.pem").write_bytes(KEY.pem())
    assert PrivateKey.load(tmp_path / "key.pem").public == KEY.public
    assert base64.b64encode(KEY.pem()).decode() not in repr(KEY) and "PRIVATE" not in repr(KEY)
    (tmp_path / "noise.pem").write_bytes(b"noise")
    for name in ("noise.pem", "absent.pem"):
        with pytest.raises(TrustError, match="overlaid fleet keys new"):
            PrivateKey.load(tmp_path / name)
