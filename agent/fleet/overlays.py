"""The folder of an overlay as a model folder: packed, delivered, proved and rolled back like a model.

The model is the overlay's self-test; its one variant is the overlay's archive.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from agent.fleet.source import MODEL_TOML
from agent.overlay.archive import write_archive
from agent.overlay.functional import run_graph
from agent.overlay.selftest import INPUT, OUTPUT, self_test_graph
from agent.overlay.spec import SPEC_NAME, parse_spec
from agent.paths import exists

SAMPLES = 4


def is_overlay_folder(path: Path) -> bool:
    """True for a folder with an overlay.toml and no model.toml."""
    return exists(path / SPEC_NAME) and not exists(path / MODEL_TOML)


def write_overlay_model(folder: Path, out: Path) -> Path:
    """Write the model folder of the overlay in ``folder`` into ``out``, an empty folder; returns ``out``.

    Raises OverlayLoadError (overlay.toml).
    """
    from agent.overlay.compiler import compile_graph
    from agent.overlay.programfile import write_program

    spec = parse_spec((folder / SPEC_NAME).read_bytes())
    graph = self_test_graph()
    program = write_program(compile_graph(graph, spec))
    (out / f"{spec.id}.overlay").write_bytes(write_archive(folder, program))
    rng = np.random.default_rng(0)
    inputs = rng.integers(-128, 128, (SAMPLES, *graph.inputs[0].shape)).astype(np.int8)
    outputs = np.stack([run_graph(graph, {INPUT: each})[OUTPUT] for each in inputs])
    np.save(out / "x.npy", inputs)
    np.save(out / "y.npy", outputs)
    (out / MODEL_TOML).write_text(
        f"""name = {json.dumps(spec.id)}
version = "{spec.version}"
description = {json.dumps(f"{spec.title}, an FPGA overlay")}
licence = "Apache-2.0"
inputs = [{{ name = "{INPUT}", dtype = "INT8", shape = {list(graph.inputs[0].shape)} }}]
outputs = [{{ name = "{OUTPUT}", dtype = "INT8", shape = {list(graph.outputs[0].shape)} }}]

[golden]
count = {SAMPLES}
inputs = {{ {INPUT} = "x.npy" }}

[[variants]]
name = {json.dumps(spec.id)}
format = "overlay"
precision = "int8"
devices = ["fpga"]
file = {json.dumps(f"{spec.id}.overlay")}
golden = {{ outputs = {{ {OUTPUT} = "y.npy" }}, atol = 0.0, rtol = 0.0 }}
overlay = {{ id = {json.dumps(spec.id)}, version = {spec.version}, lanes = {spec.lanes} }}
"""
    )
    return out
