"""The kernels as a device's own binary, in a file (.clbin): for cards that compile none, and to compile once.

``OVLNCLBN``, bytes of the header (uint32, little-endian), the header (JSON), the binary as clGetProgramInfo gave it,
SHA-256 of all that comes before it.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent.devices.opencl.plan import Traits
from agent.devices.opencl.platforms import ClDevice
from agent.devices.opencl.source import build_options, kernel_source
from agent.errors import KernelBuildFailed
from agent.validation import explain_validation

MAGIC = b"OVLNCLBN"
SUFFIX = ".clbin"
MAX_BINARY_BYTES = 1 << 30  # a bitstream of a large card has a few hundred MB
MAX_HEADER_BYTES = 4096
_HEAD = struct.Struct("<8sI")
_DIGEST_BYTES = 32
ADVICE = "make one where the device is, with: overlaid overlay kernels -o card.clbin --device DEVICE"


class Header(BaseModel):
    """What a binary is for: only this very driver takes it. ``kernels``: of their source and how it was built."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    version: Literal[1] = 1
    kernels: str = Field(pattern="^[0-9a-f]{64}$")
    platform: str = Field(max_length=256)
    device: str = Field(max_length=256)
    driver: str = Field(max_length=256)

    @property
    def key(self) -> str:
        """Names what was built for just this, in a folder of files."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def header_of(device: ClDevice, traits: Traits) -> Header:
    """What a binary must be for to run there."""
    text = "\0".join((kernel_source(), *build_options(traits)))
    return Header(
        kernels=hashlib.sha256(text.encode()).hexdigest(),
        platform=device.platform,
        device=device.name,
        driver=device.driver,
    )


def pack(header: Header, binary: bytes) -> bytes:
    """The file."""
    text = header.model_dump_json().encode()
    body = _HEAD.pack(MAGIC, len(text)) + text + binary
    return body + hashlib.sha256(body).digest()


def unpack(data: bytes, wanted: Header, named: str) -> bytes:
    """The binary in a file for ``wanted``.

    Raises KernelBuildFailed, which calls the file ``named``: no such file at all, truncated, corrupt, of another
    schema, for another device or driver, or of other kernels.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise KernelBuildFailed(f"{named} holds no kernels of overlaid; {ADVICE}")
    body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if len(data) < _HEAD.size + _DIGEST_BYTES or hashlib.sha256(body).digest() != digest:
        raise KernelBuildFailed(
            f"{named} is truncated or corrupt (its SHA-256 is wrong); copy it again, or {ADVICE}"
        )
    length = _HEAD.unpack_from(data)[1]
    end = _HEAD.size + length
    if length > MAX_HEADER_BYTES or end > len(body):
        raise KernelBuildFailed(f"{named} is corrupt: its header has {length} bytes; {ADVICE}")
    try:
        found = Header.model_validate_json(body[_HEAD.size : end])
    except ValidationError as error:
        raise KernelBuildFailed(f"{named} is corrupt: {explain_validation(error)}; {ADVICE}") from error
    _check(found, wanted, named)
    return body[end:]


def _check(found: Header, wanted: Header, named: str) -> None:
    if (found.platform, found.device) != (wanted.platform, wanted.device):
        raise KernelBuildFailed(
            f"{named} is for {found.device} ({found.platform}), and here is {wanted.device} ({wanted.platform}); "
            f"{ADVICE}"
        )
    if found.driver != wanted.driver:
        raise KernelBuildFailed(
            f"{named} is for driver {found.driver} of {found.device}, and here is {wanted.driver}; {ADVICE}"
        )
    if found.kernels != wanted.kernels:
        raise KernelBuildFailed(
            f"{named} holds the kernels of another version of overlaid, or built in another way; {ADVICE}"
        )
