"""An overlay as ``overlay.toml`` says; the RTL's header, the compiler and the driver take their constants from it."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from agent.errors import OverlayLoadError, one_line
from agent.types import check_name
from agent.validation import explain_validation, from_table

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ID = 0x4F564C4E  # "OVLN", what register ID reads
DESCRIPTOR_BYTES = 64
SPEC_NAME = "overlay.toml"
MAX_SPEC_BYTES = 64 * 1024


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Array(Part):
    lanes: Literal[8, 16]

    @property
    def macs(self) -> int:
        """Multiply-accumulates a cycle."""
        return self.lanes**2


class Memory(Part):
    activation_words: int = Field(ge=64, le=32768)
    weight_rows: int = Field(ge=64, le=32768)
    accumulators: int = Field(ge=16, le=4096)
    line_words: int = Field(ge=16, le=4096)


class Clock(Part):
    hz: int = Field(ge=1_000_000, le=1_000_000_000)


class Axi(Part):
    data_bits: Literal[64]
    address_bits: int = Field(ge=32, le=64)
    max_burst: Literal[16]
    watchdog_cycles: int = Field(ge=1, le=0xFFFFFFFF)


class Register(Part):
    offset: int = Field(ge=0, le=0xFFC, multiple_of=4)
    access: Literal["ro", "rw"]


class BitField(Part):
    """``at``: word, low bit, number of bits."""

    at: tuple[int, int, int]
    s: bool = False

    @property
    def low(self) -> int:
        """Lowest bit, counted over the whole descriptor."""
        return 32 * self.at[0] + self.at[1]

    @property
    def bits(self) -> int:
        return self.at[2]


Fields = dict[str, BitField]


class Overlay(Part):
    """One overlay. ``hz`` is the clock of the release bitstream; simulations report cycles and divide by it."""

    id: Annotated[str, AfterValidator(check_name)]
    version: int = Field(ge=1, le=65535)
    title: str = Field(max_length=200)
    array: Array
    memory: Memory
    clock: Clock
    axi: Axi
    registers: dict[str, Register]
    errors: dict[str, int]
    opcodes: dict[str, int]
    flags: dict[str, int]
    semaphores: dict[str, int]
    descriptor: dict[Literal["all", "transfer", "compute", "add"], Fields]

    @model_validator(mode="after")
    def _fields_fit(self) -> Overlay:
        for kind, fields in self.descriptor.items():
            taken = 0
            for name, field in fields.items():
                if field.at[1] + field.bits > 32 or not 0 <= field.at[0] < 16 or field.bits < 1:
                    raise ValueError(f"descriptor.{kind}.{name} does not fit in a word")
                mask = ((1 << field.bits) - 1) << field.low
                if taken & mask:
                    raise ValueError(f"descriptor.{kind}.{name} overlaps another field")
                taken |= mask
        return self

    @property
    def lanes(self) -> int:
        return self.array.lanes

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of the weight memory, read in one cycle."""
        return 2 * self.lanes

    @property
    def parameter_rows(self) -> int:
        """Weight rows that hold a lane block's biases (int32) and scales (float32)."""
        return 4

    @property
    def pass_rows(self) -> int:
        """Weight rows of one pass of CONV: lanes x lanes weights."""
        return self.lanes // 2

    @property
    def depthwise_rows(self) -> int:
        """Weight rows of nine taps of ``lanes`` channels, and one row half empty."""
        return 5

    @functools.cached_property
    def layouts(self) -> dict[int, Fields]:
        """The fields of a descriptor by its opcode."""
        codes, parts = self.opcodes, self.descriptor
        common, compute = parts["all"], parts["all"] | parts["compute"]
        add = {name: field for name, field in compute.items() if not name.startswith("stride_")} | parts[
            "add"
        ]
        transfer = common | parts["transfer"]
        return {
            codes["LOAD"]: transfer, codes["STORE"]: transfer, codes["CONV"]: compute,
            codes["DEPTHWISE"]: compute, codes["POOL"]: compute, codes["ADD"]: add, codes["END"]: common,
        }  # fmt: skip

    def register(self, name: str) -> int:
        """Byte offset of a register."""
        return self.registers[name].offset


def parse_spec(data: bytes) -> Overlay:
    """An ``overlay.toml``. Raises OverlayLoadError that names the offending keys."""
    try:
        if len(data) > MAX_SPEC_BYTES:
            raise ValueError(f"it has {len(data)} bytes, more than {MAX_SPEC_BYTES}")
        return from_table(Overlay, tomllib.loads(data.decode()))
    except ValidationError as error:
        raise OverlayLoadError(f"{SPEC_NAME}: {explain_validation(error)}") from error
    except (ValueError, RecursionError) as error:
        raise OverlayLoadError(f"{SPEC_NAME} is no description of an overlay: {error}") from error


def read_spec(folder: Path) -> Overlay:
    """The ``overlay.toml`` in ``folder``. Raises OverlayLoadError."""
    try:
        data = (folder / SPEC_NAME).read_bytes()
    except OSError as error:
        raise OverlayLoadError(f"{folder} holds no overlay: {one_line(error)}") from error
    return parse_spec(data)


def find_overlay(name: str) -> Path:
    """The folder of an overlay: a folder that holds overlay.toml, or the name of one that ships. Raises
    OverlayLoadError."""
    folder = Path(name)
    return folder if (folder / SPEC_NAME).is_file() else overlay_folder(name)


def overlay_folder(name: str) -> Path:
    """The folder of an overlay that ships with the agent. Raises OverlayLoadError that lists them."""
    from bitstreams import FOLDER

    known = sorted(path.parent.name for path in FOLDER.glob(f"*/{SPEC_NAME}"))
    if name not in known:
        raise OverlayLoadError(
            f"there is no overlay {name!r}; those that ship with the agent: {', '.join(known)}"
        )
    return FOLDER / name


@functools.cache
def load_spec(name: str) -> Overlay:
    """The overlay ``name`` that ships with the agent. Raises OverlayLoadError."""
    return read_spec(overlay_folder(name))
