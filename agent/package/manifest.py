"""The manifest: what a package holds, for whom, and how to tell that it works (docs/package.md)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field, ValidationError, model_validator

from agent.errors import ManifestError
from agent.types import OverlayRef, TensorSpec, check_digest, check_name, check_version
from agent.validation import explain_validation

SCHEMA = "overlaid-package/1"
MAX_MANIFEST_BYTES = 960 * 1024  # with its frame it stays below 1 MB, NATS's largest payload
MAX_BLOCK_BYTES = 256 * 1024
MAX_FILE_BYTES = 2 << 30

OVERLAY_FORMATS = ("npu", "overlay")

Digest = Annotated[str, AfterValidator(check_digest)]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Block(Part):
    """A piece of a file, named by its SHA-256."""

    sha256: Digest
    size: int = Field(ge=1, le=MAX_BLOCK_BYTES)


class File(Part):
    """A file as the blocks that make it, in order."""

    sha256: Digest
    size: int = Field(ge=1, le=MAX_FILE_BYTES)
    # A manifest has room for 350,000 wrong ones, and each error takes more than a kilobyte.
    blocks: Annotated[tuple[Block, ...], FailFast()] = Field(min_length=1)

    @model_validator(mode="after")
    def _sizes_add_up(self) -> File:
        if sum(block.size for block in self.blocks) != self.size:
            raise ValueError("sizes of the blocks do not add up to the file's")
        return self


class GoldenInputs(Part):
    """``count`` samples; each tensor's file holds them one after another, C order, little endian.

    A free first dimension is 1 in a sample. Of a string its length comes first: 4 bytes, unsigned.
    """

    count: int = Field(ge=1, le=1024)
    inputs: dict[str, FileName]


class GoldenOutputs(Part):
    """What a variant must answer: ``|got - want| <= atol + rtol * |want|`` for every element."""

    outputs: dict[str, FileName]
    atol: float = Field(ge=0)
    rtol: float = Field(ge=0)


class Variant(Part):
    """One form of the model. ``accuracy`` 0..1 on the packer's own test set, None when it was not measured.

    ``overlay``: what an npu program needs, and what a file of format overlay is.
    """

    name: Annotated[str, AfterValidator(check_name)]
    format: Literal["onnx", "tflite", "npu", "overlay"]
    precision: Literal["fp32", "fp16", "int8"]
    devices: tuple[Literal["cpu", "gpu", "fpga"], ...] = Field(min_length=1)
    accuracy: float | None = Field(None, ge=0, le=1)
    file: FileName
    golden: GoldenOutputs
    overlay: OverlayRef | None = None

    @model_validator(mode="after")
    def _names_its_overlay(self) -> Variant:
        if (self.overlay is not None) != (self.format in OVERLAY_FORMATS):
            raise ValueError(f"overlay belongs to the formats {', '.join(OVERLAY_FORMATS)}, and they need it")
        return self


class Manifest(Part):
    """One version of one model."""

    schema_: Literal["overlaid-package/1"] = Field(alias="schema")
    name: Annotated[str, AfterValidator(check_name)]
    version: Annotated[str, AfterValidator(check_version)]
    description: str = Field("", max_length=4000)
    licence: str = Field(min_length=1, max_length=200)
    inputs: tuple[TensorSpec, ...] = Field(min_length=1, max_length=64)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1, max_length=64)
    golden: GoldenInputs
    variants: tuple[Variant, ...] = Field(min_length=1, max_length=64)
    files: dict[FileName, File] = Field(min_length=1, max_length=256)

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        _unique([spec.name for spec in self.inputs], "inputs")
        _unique([spec.name for spec in self.outputs], "outputs")
        _unique([variant.name for variant in self.variants], "variants")
        self._check_golden(self.golden.inputs, self.inputs, "golden.inputs")
        for variant in self.variants:
            self._file(variant.file, f"variant {variant.name}")
            self._check_golden(
                variant.golden.outputs, self.outputs, f"variant {variant.name}: golden.outputs"
            )
        return self

    def _file(self, name: str, where: str) -> File:
        if name not in self.files:
            raise ValueError(f"{where}: file {name!r} is not among files")
        return self.files[name]

    def _check_golden(self, golden: dict[str, str], specs: tuple[TensorSpec, ...], where: str) -> None:
        if set(golden) != {spec.name for spec in specs}:
            raise ValueError(
                f"{where}: tensors {sorted(golden)} are not {sorted(spec.name for spec in specs)}"
            )
        for spec in specs:
            got = self._file(golden[spec.name], where).size
            if not spec.fits(got, self.golden.count):
                raise ValueError(
                    f"{where}: {spec.name!r} has {got} bytes, {self.golden.count} samples need "
                    f"{self.golden.count * spec.nbytes()}"
                )

    @property
    def is_overlay(self) -> bool:
        """True for the package of an FPGA overlay: installed for programs to use, it serves nobody itself."""
        return all(variant.format == "overlay" for variant in self.variants)

    def encode(self) -> bytes:
        """The exact bytes whose SHA-256 is the digest of the package."""
        return self.model_dump_json(by_alias=True, exclude_none=True).encode()

    def variant(self, name: str) -> Variant:
        """The variant with this name; ManifestError otherwise."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise ManifestError(f"{self.name} {self.version} has no variant {name!r}")

    def files_for(self, variants: tuple[Variant, ...]) -> dict[str, File]:
        """The files that these variants need, golden inputs included."""
        names = set(self.golden.inputs.values())
        for variant in variants:
            names |= {variant.file, *variant.golden.outputs.values()}
        return {name: self.files[name] for name in sorted(names)}


def _unique(names: list[str], what: str) -> None:
    if len(set(names)) != len(names):
        raise ValueError(f"{what}: a name appears twice")


def parse_manifest(data: bytes) -> Manifest:
    """Parse and check a manifest; ManifestError names the first offending keys."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise ManifestError(
            f"manifest has {len(data)} bytes, more than {MAX_MANIFEST_BYTES}: use larger blocks or fewer files"
        )
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise ManifestError(f"manifest: {explain_validation(error)}") from error
