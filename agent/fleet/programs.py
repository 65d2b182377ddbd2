"""Overlay programs as variants: compiled from a model folder's own quantised variant when it is packed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from agent.errors import DeviceError, ModelLoadError, UsageError
from agent.fleet.source import ModelFolder, SourceVariant
from agent.types import OverlayRef

Progress = Callable[[str, float], None]
SOURCES = ("onnx", "tflite")


def add_programs(
    folder: ModelFolder,
    overlays: Sequence[str],
    out: Path,
    progress: Progress = lambda _text, _share: None,
) -> None:
    """Compile the folder's first INT8 variant for each overlay into ``out`` and add the programs as variants.

    They answer the golden vectors of the variant that they were made from, within its tolerances. Raises UsageError (no
    INT8 variant, a variant of the overlay's name), OverlayLoadError (no such overlay), UnsupportedModel and
    ModelLoadError, which name the variant.
    """
    for overlay in overlays:
        source = _source(folder)
        try:
            folder.add(*_compiled(folder, source, overlay, out, progress))
        except DeviceError as error:
            raise type(error)(f"variant {source.name} for overlay {overlay}: {error}") from error


def _source(folder: ModelFolder) -> SourceVariant:
    """ONNX before TFLite: its programs give the very bytes of ONNX Runtime."""
    found = [v for v in folder.toml.variants if v.precision == "int8" and v.format in SOURCES]
    if not found:
        raise UsageError(
            f"{folder.path} has no int8 variant that an overlay program could be compiled from; quantise the model "
            "(QDQ ONNX or INT8 TFLite), or pack it without --overlay"
        )
    return min(found, key=lambda variant: SOURCES.index(variant.format))


def _compiled(
    folder: ModelFolder, source: SourceVariant, overlay: str, out: Path, progress: Progress
) -> tuple[SourceVariant, Path]:
    from agent.overlay.compiler import compile_model
    from agent.overlay.programfile import write_program
    from agent.overlay.spec import find_overlay, read_spec

    text = f"compiling {source.name} for {overlay}"
    progress(text, 0.0)
    spec = read_spec(find_overlay(overlay))
    if any(variant.name == spec.id for variant in folder.toml.variants):
        raise UsageError(
            f"there is a variant {spec.id!r} already; name each overlay once, and no variant like it"
        )
    program = compile_model(folder.file(source.file), spec)
    path = out / f"{Path(source.file).stem}.{spec.id}.npu"
    path.write_bytes(write_program(program))
    progress(text, 1.0)
    update = {
        "name": spec.id,
        "format": "npu",
        "devices": ("fpga", "gpu", "cpu"),
        "file": path.name,
        "accuracy": source.accuracy if source.format == "onnx" else None,
        "overlay": OverlayRef(spec.id, spec.version, spec.lanes),
    }
    return source.model_copy(update=update), path


def check_overlay(variant: SourceVariant, data: bytes) -> None:
    """ModelLoadError when the program is for another overlay than the variant says; ProgramError for what is none."""
    from agent.overlay.programfile import read_program

    program = read_program(data)
    found = OverlayRef(program.overlay, program.version, program.lanes)
    if variant.overlay is not None and variant.overlay != found:
        raise ModelLoadError(
            f"variant {variant.name}: its program is for overlay {found}, and model.toml says {variant.overlay}; "
            "name the program's, or compile it anew"
        )
