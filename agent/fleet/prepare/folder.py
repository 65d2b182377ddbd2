"""A model folder out of what was made: model.toml, model files, golden vectors, the report; whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent.fleet.appearing import appearing
from agent.fleet.prepare.page import make_page
from agent.fleet.prepare.values import Arrays, Made, Prepared
from agent.fleet.source import MODEL_TOML
from agent.types import TensorSpec

REPORT_JSON, REPORT_HTML = "report.json", "report.html"


def write_folder(prepared: Prepared, golden: Arrays, report: Mapping[str, Any], out: Path) -> None:
    """``golden``: per input ``(count, *sample)``. Raises UsageError (``out`` exists), StoreError."""
    source = prepared.source
    with appearing(out) as folder:
        inputs = _save(folder, "inputs", source.inputs, golden)
        files = {each.name: _save(folder, each.name, source.outputs, each.outputs) for each in prepared.made}
        for each in prepared.made:
            (folder / each.file).write_bytes(each.data)
        text = "\n".join(_model_toml(prepared, len(next(iter(golden.values()))), inputs, files))
        (folder / MODEL_TOML).write_text(text, encoding="utf-8")
        (folder / REPORT_JSON).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        (folder / REPORT_HTML).write_text(make_page(report), encoding="utf-8")


def _save(folder: Path, kind: str, specs: Sequence[TensorSpec], arrays: Arrays) -> dict[str, str]:
    """Tensor → .npy file within the folder."""
    place = folder / "golden" / kind
    place.mkdir(parents=True)
    found = {}
    for index, spec in enumerate(specs):
        found[spec.name] = f"golden/{kind}/{index}.npy"
        np.save(folder / found[spec.name], arrays[spec.name])
    return found


def _model_toml(
    prepared: Prepared, count: int, inputs: Mapping[str, str], files: Mapping[str, Mapping[str, str]]
) -> Iterator[str]:
    request, source = prepared.request, prepared.source
    yield f"# Made by overlaid fleet prepare; {REPORT_JSON} says what was tried and what it cost."
    for key in ("name", "version", "description", "licence"):
        value = source.name if key == "name" else getattr(request, key)
        yield f"{key} = {_text(value)}"
    for table, specs in (("inputs", source.inputs), ("outputs", source.outputs)):
        for spec in specs:
            yield f"\n[[{table}]]\nname = {_text(spec.name)}"
            yield f"dtype = {_text(spec.dtype)}\nshape = {list(spec.shape)}"
    yield f"\n[golden]\ncount = {count}\ninputs = {_table(inputs)}"
    for made in prepared.made:
        yield from _variant(made, files[made.name])
    yield ""


def _variant(made: Made, outputs: Mapping[str, str]) -> Iterator[str]:
    yield f"\n[[variants]]\nname = {_text(made.name)}\nformat = {_text(made.format)}"
    yield f"precision = {_text(made.precision)}\ndevices = [{', '.join(map(_text, made.devices))}]"
    if made.quality.accuracy is not None:
        yield f"accuracy = {made.quality.accuracy:.6f}"
    yield f"file = {_text(made.file)}"
    yield f"golden = {{ outputs = {_table(outputs)}, atol = {made.atol!r}, rtol = {made.rtol!r} }}"
    if made.overlay is not None:
        ref = made.overlay
        yield f"overlay = {{ id = {_text(ref.id)}, version = {ref.version}, lanes = {ref.lanes} }}"


def _table(values: Mapping[str, str]) -> str:
    return "{ " + ", ".join(f"{_text(key)} = {_text(value)}" for key, value in values.items()) + " }"


def _text(value: str) -> str:
    """A TOML string; JSON's escapes are TOML's, but for characters beyond 16 bits, which are written as they are."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
