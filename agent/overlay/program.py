"""An overlay program: what the compiler makes and every executor runs."""

from __future__ import annotations

from dataclasses import dataclass

from agent.overlay.graph import Conv, Foreign, Host, Layer, Pads, Tensor
from agent.types import TensorSpec


@dataclass(frozen=True, slots=True)
class Binding:
    """Where a tensor that crosses to the host lies in its region (1: inputs, 2: outputs).

    ``stack`` = 0: planes, ``[ceil(channels / lanes)][height][width][lanes]``. Otherwise packed pixels of four bytes for
    a first convolution: ``[rows][columns][4]`` where byte r x channels + c of pixel (y, x) is channel c of the padded
    input at (y + r, x), r < ``stack`` = 4 // channels; what lies outside is ``fill``; ``columns`` is rounded up to
    whole words.
    """

    tensor: Tensor
    offset: int
    nbytes: int
    stack: int = 0
    pads: Pads = (0, 0, 0, 0)
    rows: int = 0
    columns: int = 0
    fill: int = 0


@dataclass(frozen=True, slots=True)
class Segment:
    """Layers that run on the overlay in one go.

    ``data`` is region 0. ``resident`` is the offset of the chain that loads the weights that stay on the chip, run once
    when the program takes the overlay (None when there are none); ``chain`` that of every inference. ``counts``:
    compute descriptors of each layer, in chain order.
    """

    layers: tuple[Layer, ...]
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    data: bytes
    resident: int | None
    chain: int
    input_bytes: int
    output_bytes: int
    scratch_bytes: int
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A CPU segment: a model of its own in the source's format ("onnx", "tflite")."""

    foreign: Foreign
    format: str
    model: bytes


ProgramStep = Segment | Host | Part


@dataclass(frozen=True, slots=True)
class Program:
    """For one overlay (id, version, lanes); ``tensors`` by name are those that layers touch."""

    name: str
    overlay: str
    version: int
    lanes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    tensors: dict[str, Tensor]
    steps: tuple[ProgramStep, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of an inference on the overlay, padding of channels not counted."""
        return sum(
            layer.macs
            for step in self.steps
            if isinstance(step, Segment)
            for layer in step.layers
            if isinstance(layer, Conv)
        )
