"""A model folder as its author writes it: model.toml, model files, golden vectors as .npy files.

Imports numpy and the tensors of ``devices``: for the operator's side only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from tokenize import TokenError
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from agent.devices.tensors import DTYPES, NAMES
from agent.errors import ConfigError, ManifestError, TensorError
from agent.package.manifest import MAX_FILE_BYTES, Part
from agent.paths import exists, read_toml
from agent.types import OverlayRef, TensorSpec
from agent.validation import explain_validation

MODEL_TOML = "model.toml"
Array = NDArray[Any]


class SourceGolden(Part):
    """``inputs``: tensor name → .npy file within the folder."""

    count: int = Field(ge=1, le=1024)
    inputs: dict[str, str]


class SourceOutputs(Part):
    outputs: dict[str, str]
    atol: float = Field(ge=0)
    rtol: float = Field(ge=0)


class SourceVariant(Part):
    name: str
    format: Literal["onnx", "tflite", "npu", "overlay"]
    precision: str
    devices: tuple[str, ...]
    accuracy: float | None = None
    file: str
    golden: SourceOutputs
    overlay: OverlayRef | None = None


class ModelToml(Part):
    """model.toml. What the manifest checks (names, formats, ranges) is left to it."""

    name: str
    version: str
    description: str = ""
    licence: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    golden: SourceGolden
    variants: tuple[SourceVariant, ...]


class ModelFolder:
    """A model folder, its model.toml read. Raises ManifestError that names the offending keys."""

    def __init__(self, path: Path) -> None:
        self.path = path
        file = path / MODEL_TOML
        if not exists(file):
            raise ManifestError(
                f"{path} is not a model folder: it has no {MODEL_TOML} (docs/package.md shows one)"
            )
        try:
            # By way of JSON: strict types, yet arrays may be tuples and integers floats, as in the manifest.
            # TOML's dates belong nowhere; as empty tables they are refused with their key.
            self.toml = ModelToml.model_validate_json(json.dumps(read_toml(file), default=lambda _: {}))
        except ValidationError as error:
            raise ManifestError(f"{file}: {explain_validation(error)}") from error
        except ConfigError as error:
            raise ManifestError(str(error)) from error
        self.inputs = {spec.name: spec for spec in self.toml.inputs}
        self.outputs = {spec.name: spec for spec in self.toml.outputs}
        self._made: dict[str, Path] = {}

    def add(self, variant: SourceVariant, path: Path) -> None:
        """A variant that was made while packing; its file lies at ``path``."""
        self._made[variant.file] = path
        self.toml = self.toml.model_copy(update={"variants": (*self.toml.variants, variant)})

    def file(self, name: str) -> Path:
        """The path of a file that model.toml names; ManifestError when it is lost, empty, too large or elsewhere."""
        if name in self._made:
            return self._made[name]
        path = self.path / name
        if not path.resolve().is_relative_to(self.path.resolve()):
            raise ManifestError(f"{MODEL_TOML}: {name!r} lies outside {self.path}; copy it into the folder")
        try:
            if not path.is_file():
                raise ManifestError(f"{MODEL_TOML}: there is no file {path}")
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
        except OSError as error:
            raise ManifestError(
                f"{MODEL_TOML}: {path}: {error.strerror}; this user (uid {os.geteuid()}) must be able to read it"
            ) from error
        if not 0 < size <= MAX_FILE_BYTES:
            raise ManifestError(f"{path} has {size} bytes; a file of a package has 1 to {MAX_FILE_BYTES}")
        return path

    def golden_inputs(self) -> dict[str, Array]:
        """Per input an array of shape (count, *sample), little endian, C order; TensorError, ManifestError."""
        return self._golden(self.toml.golden.inputs, self.inputs, "golden.inputs")

    def golden_outputs(self, variant: SourceVariant) -> dict[str, Array]:
        """The same for what a variant must answer; NaN and infinities are refused too."""
        where = f"variant {variant.name}: golden.outputs"
        arrays = self._golden(variant.golden.outputs, self.outputs, where)
        for name, array in arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise TensorError(
                    f"{where}: {name!r} holds NaN or infinity, which no answer can be compared with"
                )
        return arrays

    def _golden(
        self, files: Mapping[str, str], specs: Mapping[str, TensorSpec], where: str
    ) -> dict[str, Array]:
        if files.keys() != specs.keys():
            raise TensorError(f"{where}: tensors {sorted(files)} are not {sorted(specs)}")
        count = self.toml.golden.count
        return {name: load_golden(self.file(files[name]), spec, count) for name, spec in specs.items()}


def load_golden(path: Path, spec: TensorSpec, count: int) -> Array:
    """``count`` samples from a .npy file as (count, *sample), little endian, C order.

    The file's shape is that, or without the sample's leading 1: [16, 1, 8, 8] holds 16 samples of [-1, 1, 8, 8].
    Strings are text or bytes of a fixed length (dtypes U and S), which cannot end in NUL; what comes back are ``bytes``
    objects. Raises TensorError. Pickled objects are never loaded.
    """
    try:
        array = np.load(path, allow_pickle=False, mmap_mode="r")
    except (OSError, ValueError, EOFError, SyntaxError, TokenError, MemoryError, OverflowError) as error:
        raise TensorError(
            f"{path} is not a .npy file of numbers: {str(error)[:120]}; numpy.save makes one"
        ) from error
    if not isinstance(array, np.ndarray):  # an .npz archive
        array.close()
        raise TensorError(f"{path} is an archive of arrays; a golden file holds one (numpy.save)")
    sample = spec.concrete()
    allowed = [(count, *sample)] + ([(count, *sample[1:])] if sample[:1] == (1,) else [])
    strings = spec.dtype == "BYTES" and array.dtype.kind in "SU"
    if not (strings or array.dtype.newbyteorder("=") == DTYPES[spec.dtype]) or array.shape not in allowed:
        got = f"{NAMES.get(array.dtype.newbyteorder('='), array.dtype)} {list(array.shape)}"
        raise TensorError(
            f"{path}: {spec.name!r} needs {count} samples, {spec.dtype} {list(allowed[-1])}; the file holds {got}"
        )
    if strings:
        items = np.char.encode(array, "utf-8") if array.dtype.kind == "U" else array
        return items.astype(object).reshape(count, *sample)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(count, *sample)
