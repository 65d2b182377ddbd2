"""From a model folder to a package folder (docs/package.md)."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.devices.tensors import pack_strings
from agent.errors import ModelLoadError, UsageError
from agent.fleet.appearing import appearing, check_absent
from agent.fleet.boundaries import tensor_boundaries
from agent.fleet.check import Agreement, check_variant
from agent.fleet.overlays import is_overlay_folder, write_overlay_model
from agent.fleet.programs import add_programs, check_overlay
from agent.fleet.source import Array, ModelFolder, SourceVariant
from agent.package.blocks import file_entry
from agent.package.directory import BLOCKS_NAME, MANIFEST_NAME
from agent.package.manifest import MAX_BLOCK_BYTES, SCHEMA, Manifest, parse_manifest
from agent.package.verify import digest_of

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Packed:
    """What was written. ``agreements``: by variant, empty when nothing was checked."""

    manifest: Manifest
    digest: str
    blocks: int
    agreements: Mapping[str, Agreement]

    @property
    def size(self) -> int:
        """Bytes of all files of the package."""
        return sum(file.size for file in self.manifest.files.values())


def pack(
    model_dir: Path,
    out: Path,
    *,
    overlays: Sequence[str] = (),
    block_bytes: int = MAX_BLOCK_BYTES,
    check: bool = True,
    progress: Progress = lambda _text, _share: None,
) -> Packed:
    """Check and cut a model, or the folder of an overlay; ``out`` appears at the end, whole. For each of
    ``overlays`` a program is compiled.

    Raises UsageError (``out`` exists), ManifestError (model.toml), ModelLoadError, TensorError (golden vectors do not
    fit), GoldenMismatch, what ``add_programs`` raises, RuntimeUnavailable (only with ``check``), StoreError.
    """
    check_absent(out)
    with tempfile.TemporaryDirectory() as made:
        if is_overlay_folder(model_dir):
            if overlays:
                raise UsageError(f"{model_dir} is an overlay itself; --overlay is for models: leave it out")
            model_dir = write_overlay_model(model_dir, Path(made))
        folder = ModelFolder(model_dir)
        inputs = folder.golden_inputs()
        add_programs(folder, overlays, Path(made), progress)
        return _pack(folder, inputs, out, block_bytes, check, progress)


def _pack(
    folder: ModelFolder,
    inputs: Mapping[str, Array],
    out: Path,
    block_bytes: int,
    check: bool,
    progress: Progress,
) -> Packed:
    outputs = {variant.name: folder.golden_outputs(variant) for variant in folder.toml.variants}
    with appearing(out) as unfinished:
        (unfinished / BLOCKS_NAME).mkdir()
        writer = _Writer(unfinished, block_bytes, progress)
        manifest = _write_files(folder, inputs, outputs, writer)
        agreements = {}
        for variant in folder.toml.variants if check else ():
            if variant.format == "overlay":  # its golden vectors were computed just now
                continue
            agreements[variant.name] = check_variant(
                folder, variant, inputs, outputs[variant.name], _checking(variant, progress)
            )
        encoded = manifest.encode()
        (unfinished / MANIFEST_NAME).write_bytes(encoded)
    return Packed(manifest, digest_of(encoded), len(writer.blocks), agreements)


def _checking(variant: SourceVariant, progress: Progress) -> Callable[[float], None]:
    return lambda share: progress(f"checking {variant.name}", share)


class _Writer:
    """Cuts files into blocks and gives each a flat name of its own."""

    def __init__(self, folder: Path, block_bytes: int, progress: Progress) -> None:
        self._folder = folder
        self._block_bytes = block_bytes
        self._progress = progress
        self.files: dict[str, Any] = {}
        self.blocks: set[str] = set()

    def add(self, wanted: str, data: bytes, boundaries: list[int]) -> str:
        """Write a file's blocks; the name it got in the manifest."""
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", wanted).strip("._-")[-100:].lstrip("._-") or "file"
        if name in self.files:
            name = f"{len(self.files)}-{name}"
        entry, pieces = file_entry(data, boundaries, self._block_bytes)
        for done, (block, piece) in enumerate(zip(entry.blocks, pieces, strict=True), start=1):
            if block.sha256 not in self.blocks:
                (self._folder / BLOCKS_NAME / block.sha256).write_bytes(piece)
                self.blocks.add(block.sha256)
            self._progress(f"cutting {name}", done / len(pieces))
        self.files[name] = entry.model_dump()
        return name


def _write_files(
    folder: ModelFolder,
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Mapping[str, Array]],
    writer: _Writer,
) -> Manifest:
    """Write every file's blocks; the manifest that names them, checked."""
    toml = folder.toml
    golden_inputs = {name: _add_array(writer, f"golden-{name}.bin", array) for name, array in inputs.items()}
    model_files: dict[Path, str] = {}
    variants = []
    for variant in toml.variants:
        golden = {
            name: _add_array(writer, f"golden-{variant.name}-{name}.bin", array)
            for name, array in outputs[variant.name].items()
        }
        path = folder.file(variant.file)
        if path not in model_files:
            model_files[path] = _add_model(writer, variant, path)
        variants.append(
            variant.model_dump()
            | {"file": model_files[path], "golden": variant.golden.model_dump() | {"outputs": golden}}
        )
    values = toml.model_dump() | {
        "schema": SCHEMA,
        "golden": {"count": toml.golden.count, "inputs": golden_inputs},
        "variants": variants,
        "files": writer.files,
    }
    return parse_manifest(json.dumps(values).encode())


def _add_array(writer: _Writer, name: str, array: Array) -> str:
    return writer.add(name, pack_strings(array) if array.dtype == object else array.tobytes(), [])


def _add_model(writer: _Writer, variant: SourceVariant, path: Path) -> str:
    data = path.read_bytes()
    if variant.format == "npu":
        check_overlay(variant, data)
    try:
        boundaries = tensor_boundaries(data, variant.format)
    except ModelLoadError as error:
        raise ModelLoadError(f"variant {variant.name}: {path.name}: {error}") from error
    return writer.add(path.name, data, boundaries)
