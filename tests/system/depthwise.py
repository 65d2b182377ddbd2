"""A model folder with an overlay program and nothing else: depthwise convolutions with large kernels, INT8.

Compiled kernels do these in much less time than numpy, which reads and writes all planes again for each tap.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.devices.program import FunctionalEngine
from agent.overlay.compiler import compile_graph
from agent.overlay.graph import Graph, Layer, Tensor
from agent.overlay.program import Part, Program
from agent.overlay.programfile import write_program
from agent.overlay.regions import Arrays
from agent.overlay.spec import load_spec
from agent.types import TensorSpec
from tests.unit.overlay.handmade import conv, tensor

NAME, CHANNELS, SIZE, KERNEL = "depthwise", 64, 40, 7
LAYERS = {"quick": 2, "slow": 8}  # of each variant


def make_program(layer_count: int) -> Program:
    """``x`` to ``y``, both INT8 ``[1, CHANNELS, SIZE, SIZE]``."""
    last = tensor("x", CHANNELS, SIZE, SIZE)
    tensors: dict[str, Tensor] = {"x": last}
    layers: list[Layer] = []
    border = KERNEL // 2
    for number in range(layer_count):
        layer, target = conv(
            number, last, CHANNELS, (KERNEL, KERNEL), pads=(border, border, border, border), depthwise=True
        )
        name = "y" if number == layer_count - 1 else f"t{number}"
        layers.append(replace(layer, name=name, output=name))
        last = tensors[name] = replace(target, name=name)
    specs = [TensorSpec(name, "INT8", tensors[name].shape) for name in "xy"]
    return compile_graph(Graph(NAME, (specs[0],), (specs[1],), tensors, tuple(layers)), load_spec("npu"))


def write_depthwise(folder: Path) -> Path:
    """A model folder that ``overlaid fleet pack`` takes: the quick variant is for GPUs, the slow one for CPUs."""
    folder.mkdir()
    shape = [1, CHANNELS, SIZE, SIZE]
    x = np.random.default_rng(3).integers(-128, 128, (2, *shape[1:])).astype(np.int8)
    np.save(folder / "x.npy", x)
    (folder / "model.toml").write_text(
        f'name = "{NAME}"\nversion = "1.0.0"\nlicence = "none"\n'
        f'[[inputs]]\nname = "x"\ndtype = "INT8"\nshape = {shape}\n'
        f'[[outputs]]\nname = "y"\ndtype = "INT8"\nshape = {shape}\n'
        '[golden]\ncount = 2\ninputs = { x = "x.npy" }\n'
        + _variant(folder, "quick", "gpu", x)
        + _variant(folder, "slow", "cpu", x)
    )
    return folder


def _variant(folder: Path, name: str, device: str, x: NDArray[np.int8]) -> str:
    program = make_program(LAYERS[name])
    (folder / f"{name}.npu").write_bytes(write_program(program))
    done = FunctionalEngine(program).execute([{"x": sample[None]} for sample in x], _no_part)
    np.save(folder / f"{name}.npy", np.concatenate([outputs["y"] for outputs in done.outputs]))
    return (
        f'[[variants]]\nname = "{name}"\nformat = "npu"\nprecision = "int8"\ndevices = ["{device}"]\n'
        f'file = "{name}.npu"\noverlay = {{ id = "npu", version = {program.version}, lanes = {program.lanes} }}\n'
        f'golden = {{ outputs = {{ y = "{name}.npy" }}, atol = 0.0, rtol = 0.0 }}\n'
    )


def infer_body() -> bytes:
    """A request in JSON."""
    count = CHANNELS * SIZE * SIZE
    shape = f"[1, {CHANNELS}, {SIZE}, {SIZE}]"
    data = ", ".join(["1"] * count)
    return f'{{"inputs": [{{"name": "x", "shape": {shape}, "datatype": "INT8", "data": [{data}]}}]}}'.encode()


def _no_part(part: Part, given: Arrays) -> Arrays:
    raise AssertionError("all of it is for the overlay")
