"""What delivery reads from outside, damaged: every parser takes it or says no by name.

``python -m tests.fuzz.delivery --seconds 600 --seed 1`` runs as long as asked, in a bounded memory, and ends at the
first finding with what makes it again. Each round depends on its seed and on the corpus, ``corpus/<parser>/*``, where a
finding becomes another file.
"""

from __future__ import annotations

import copy
import json
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.errors import BlockError, ManifestError, MessageError, ModelLoadError, OverlaidError, TrustError
from agent.fleet.boundaries import tensor_boundaries
from agent.link.blocks import decode_frame, encode_frame
from agent.link.messages import (
    MAX_CONTROL_BYTES,
    BlockRequest,
    Capabilities,
    Command,
    Desired,
    Message,
    Reported,
    Result,
    Status,
    TelemetryBatch,
    open_signed,
    parse,
)
from agent.link.topics import Target
from agent.package.blocks import cut
from agent.package.manifest import MAX_MANIFEST_BYTES, parse_manifest
from agent.trust import PrivateKey, keyring, seal, unseal
from tests.fuzz.rounds import run_rounds

CORPUS = Path(__file__).parent / "corpus"
LONGEST_TEXT = 2000  # characters of an error: it goes to logs and to the operator
KEY = PrivateKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))
KEYS = keyring([KEY.public])
TARGET = Target("plant", "cam-7")
MESSAGES: tuple[type[Message], ...] = (
    BlockRequest, Capabilities, Command, Desired, Reported, Result, Status, TelemetryBatch,
)  # fmt: skip
ODD: tuple[Any, ...] = (
    None, True, 0, -1, 0.5, 1e400, float("nan"), 1 << 31, 1 << 53, 1 << 64, 10**400, "", "x", "\ud800", "\0", "é",
    "a" * 64, "../../etc/passwd", "A" * 5000, [], {}, [[]], [1] * 300, {"a": 1}, {"x" * 3000: 1},
    [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]],
)  # fmt: skip
TOKENS = (
    b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\\ud800", b"\\u0000", b"NaN", b"-Infinity", b"1e999", b"\0",
    b"\xff", b"-", b"[" * 3000,
    b'{"a":' * 3000, b"9" * 5000, b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xff" * 8, b"\x80" * 12,
    b"\0" * 8,
)  # fmt: skip


@dataclass(frozen=True)
class Parser:
    """``run`` takes what it is given, or raises one of ``named``; of more than ``most`` bytes it looks at none."""

    run: Callable[[bytes], object]
    named: tuple[type[OverlaidError], ...]
    most: int
    is_json: bool = True


def _manifest(data: bytes) -> None:
    manifest = parse_manifest(data)
    assert parse_manifest(manifest.encode()) == manifest


def _envelope(data: bytes) -> None:
    """As that of a command, and of a desired state."""
    try:
        open_signed(Command, data, KEYS, TARGET, 0.0)
    except (TrustError, MessageError) as error:
        check_error(error)
    unseal("desired", data, KEYS)


def _signed(kind: type[Any], data: bytes) -> None:
    """Of a trusted key, which may have been stolen, or be used by a newer operator."""
    _, message = open_signed(kind, seal(kind.__name__.lower(), data, KEY), KEYS, TARGET, 1760000000.0)
    if isinstance(message, Desired):
        again = Desired.of(TARGET, message.state())
        assert again.state() == message.state()


def _message(kind: type[Message], data: bytes) -> None:
    message = parse(kind, data)
    assert parse(kind, message.encode()).encode() == message.encode()


def _frame(data: bytes) -> None:
    assert encode_frame(*decode_frame(data)) == data


def _model(file_format: str, data: bytes) -> None:
    pieces = cut(data, tensor_boundaries(data, file_format))
    assert b"".join(pieces) == data
    assert len(pieces) <= 300 + 2 * len(data) // 4096


PARSERS: dict[str, Parser] = {
    "manifest": Parser(_manifest, (ManifestError,), MAX_MANIFEST_BYTES),
    "envelope": Parser(_envelope, (MessageError, TrustError), MAX_CONTROL_BYTES),
    "signed-desired": Parser(partial(_signed, Desired), (MessageError, TrustError), MAX_CONTROL_BYTES),
    "signed-command": Parser(partial(_signed, Command), (MessageError, TrustError), MAX_CONTROL_BYTES),
    "frame": Parser(_frame, (MessageError, BlockError), 1 << 20, is_json=False),
    **{
        kind.__name__.lower(): Parser(partial(_message, kind), (MessageError,), MAX_CONTROL_BYTES)
        for kind in MESSAGES
    },
    **{
        form: Parser(partial(_model, form), (ModelLoadError,), 1 << 20, is_json=False)
        for form in ("onnx", "tflite", "npu")
    },
}


def check(name: str, data: bytes) -> str:
    """Give a parser its input: "taken", or the error's name. Any other exception, and an error that says too much or
    cannot be written down, is a finding."""
    parser = PARSERS[name]
    try:
        parser.run(data)
    except parser.named as error:
        check_error(error)
        return type(error).__name__
    return "taken"


def check_error(error: OverlaidError) -> None:
    """AssertionError for a text that is none, is too long, or is no UTF-8."""
    text = str(error)
    assert 0 < len(text) < LONGEST_TEXT, f"an error of {len(text)} characters: {text[:200]}"
    text.encode()


@cache
def corpus(name: str) -> tuple[bytes, ...]:
    """The committed inputs of a parser; a signed payload's are the payload's."""
    return tuple(path.read_bytes() for path in sorted((CORPUS / name.removeprefix("signed-")).iterdir()))


def one_round(seed: int) -> str:
    """``parser: outcome`` of the input of this seed."""
    rng = random.Random(seed)
    name = rng.choice(list(PARSERS))
    data = rng.choice(corpus(name))
    if PARSERS[name].is_json and rng.random() < 0.7:
        data = damage_json(rng, data)
    for _ in range(rng.choice((0, 1, 1, 2, 5))):
        data = _damage(rng, data, corpus(name))
    if name == "envelope" and rng.random() < 0.5:
        data = seal("desired", damage_json(rng, rng.choice(corpus("desired"))), KEY)
    return f"{name}: {check(name, data[: PARSERS[name].most + 1])}"


def damage_json(rng: random.Random, data: bytes) -> bytes:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return data
    for _ in range(rng.choice((1, 1, 2, 4))):
        if isinstance(document, dict | list):
            _damage_place(rng, document)
    text = json.dumps(document, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    return text[:-1] + b"," + text[1:] if rng.random() < 0.1 and text[:1] == b"{" else text  # every key twice


def _damage_place(rng: random.Random, value: Any) -> None:
    while True:
        items = list(value.values() if isinstance(value, dict) else value)
        inner = [item for item in items if isinstance(item, dict | list) and item]
        if not inner or rng.random() < 0.3:
            break
        value = rng.choice(inner)
    odd = copy.deepcopy(rng.choice((*ODD, *items[:5])))
    if isinstance(value, list):
        place = rng.randint(0, len(value))
        value[place : place + rng.randint(0, 1)] = [
            copy.deepcopy(odd) for _ in range(rng.choice((0, 1, 1, 300)))
        ]
    elif value and rng.random() < 0.2:
        value.pop(rng.choice(list(value)))
    else:
        value[rng.choice((*value, "x", "\ud800", "k" * 2000))] = odd


def _damage(rng: random.Random, data: bytes, others: tuple[bytes, ...]) -> bytes:
    at, end = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
    other = rng.choice(others)
    change: Callable[[], bytes] = rng.choice(
        (
            lambda: data[:at],
            lambda: data[:at] + data[end:],
            lambda: (
                data[:at]
                + (data[at:end] * min(rng.choice((2, 50, 5000)), 1 + (1 << 20) // (end - at + 1)))
                + data[end:]
            ),
            lambda: data[:at] + rng.choice(TOKENS) + data[at:],
            lambda: data[:at] + rng.choice(TOKENS) + data[end:],
            lambda: data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :],
            lambda: data[:at] + rng.randbytes(4) + data[at + 4 :],
            lambda: data[:at] + other[rng.randint(0, len(other)) :],
        )
    )
    return change()[: 2 << 20]


if __name__ == "__main__":
    sys.exit(run_rounds(__doc__, one_round))
