"""The overlays' self-test as a program on disk, with the answers that it must give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.hal import ModelFile
from agent.overlay.compiler import compile_graph
from agent.overlay.functional import run_graph
from agent.overlay.programfile import write_program
from agent.overlay.selftest import INPUT, OUTPUT, self_test_graph
from agent.overlay.spec import load_spec

GRAPH = self_test_graph()


def inputs(count: int = 2) -> NDArray[np.int8]:
    """``[count, 1, 3, 16, 16]``"""
    rng = np.random.default_rng(5)
    return rng.integers(-128, 128, (count, *GRAPH.inputs[0].shape)).astype(np.int8)


def answers(samples: NDArray[np.int8]) -> NDArray[Any]:
    """``[count, 1, 10]``"""
    return np.stack([run_graph(GRAPH, {INPUT: sample})[OUTPUT] for sample in samples])


def program(folder: Path, overlay: str = "npu") -> ModelFile:
    """The self-test, compiled for an overlay that ships."""
    path = folder / f"selftest.{overlay}.npu"
    path.write_bytes(write_program(compile_graph(GRAPH, load_spec(overlay))))
    return ModelFile(path, "npu", GRAPH.inputs, GRAPH.outputs)
