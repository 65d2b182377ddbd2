"""The JSON header of a program file: every field bounded, before anything is made of it."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from agent.types import check_name

MAX_STEPS = 4096
MAX_BYTES = 0xFFFFFFFF  # of a region; offsets in descriptors have 32 bits
MAX_ELEMENTS = 1 << 30  # of a tensor or an array

Name = Annotated[str, Field(min_length=1, max_length=4096)]
Names = Annotated[tuple[Name, ...], Field(max_length=4096)]
Size = Annotated[int, Field(ge=1, le=1 << 20)]
Small = Annotated[int, Field(ge=0, le=1 << 20)]
Bytes = Annotated[int, Field(ge=0, le=MAX_BYTES)]
Int8 = Annotated[int, Field(ge=-128, le=127)]
Int32 = Annotated[int, Field(ge=-(1 << 31), le=(1 << 31) - 1)]
Section = Annotated[int, Field(ge=0, le=1 << 20)]
Pair = tuple[Size, Size]
Pads = tuple[Small, Small, Small, Small]
Shape = Annotated[tuple[Annotated[int, Field(ge=-1, le=MAX_ELEMENTS)], ...], Field(max_length=8)]
Scalar = bool | int | float | str
Attribute = Scalar | Annotated[tuple[Scalar, ...], Field(max_length=1 << 20)]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class SpecModel(Part):
    name: Annotated[str, Field(min_length=1, max_length=256)]
    dtype: Annotated[str, Field(max_length=16)]
    shape: Shape


class TensorModel(Part):
    name: Name
    channels: Size
    height: Size
    width: Size
    zero_point: Int8
    dtype: Literal["INT8", "UINT8"]
    shape: Shape
    layout: Literal["nchw", "nhwc"]

    @model_validator(mode="after")
    def _sized(self) -> TensorModel:
        elements = self.channels * self.height * self.width
        if self.shape[1:] and min(self.shape[1:]) < 1:
            raise ValueError(f"shape {list(self.shape)}: only the first dimension may be -1")
        if elements > MAX_ELEMENTS or math.prod(self.shape) not in (elements, -elements):
            raise ValueError(f"shape {list(self.shape)} does not have {elements} elements")
        return self


class ConvModel(Part):
    """``weights``, ``bias``, ``scale``: sections; ``kernel``: the shape of the weights."""

    kind: Literal["conv"]
    name: Name
    input: Name
    output: Name
    kernel: tuple[Size, Size, Size, Size]
    weights: Section
    bias: Section
    scale: Section
    stride: Pair
    pads: Pads
    dilation: Pair
    depthwise: bool
    pad_value: Int8
    zero_point: Int8
    low: Int8
    high: Int8
    macs: Annotated[int, Field(ge=0, le=1 << 62)]
    nodes: Names


class PoolModel(Part):
    kind: Literal["pool"]
    name: Name
    input: Name
    output: Name
    maximum: bool
    kernel: Pair
    stride: Pair
    pads: Pads
    pad_value: Int8
    bias: Int32
    scale: float
    zero_point: Int8
    low: Int8
    high: Int8
    nodes: Names


class AddModel(Part):
    kind: Literal["add"]
    name: Name
    a: Name
    b: Name
    output: Name
    ratio_a: Annotated[int, Field(ge=0, lt=1 << 24)]
    ratio_b: Annotated[int, Field(ge=0, lt=1 << 24)]
    offset: Annotated[int, Field(ge=-(1 << 39), lt=1 << 39)]
    shift: Annotated[int, Field(ge=0, le=63)]
    low: Int8
    high: Int8
    nodes: Names


LayerModel = Annotated[ConvModel | PoolModel | AddModel, Field(discriminator="kind")]


class BindingModel(Part):
    """``tensor``: its name."""

    tensor: Name
    offset: Bytes
    nbytes: Bytes
    stack: Annotated[int, Field(ge=0, le=4)]
    pads: Pads
    rows: Small
    columns: Small
    fill: Int8


class SegmentModel(Part):
    kind: Literal["segment"]
    layers: Annotated[tuple[LayerModel, ...], Field(min_length=1, max_length=MAX_STEPS)]
    inputs: Annotated[tuple[BindingModel, ...], Field(max_length=MAX_STEPS)]
    outputs: Annotated[tuple[BindingModel, ...], Field(min_length=1, max_length=MAX_STEPS)]
    data: Section
    resident: Bytes | None
    chain: Bytes
    input_bytes: Bytes
    output_bytes: Bytes
    scratch_bytes: Bytes
    counts: Annotated[tuple[Small, ...], Field(max_length=MAX_STEPS)]


class HostModel(Part):
    kind: Literal["host"]
    op: Annotated[str, Field(max_length=64)]
    inputs: Names
    outputs: tuple[Name]
    attributes: dict[Annotated[str, Field(max_length=64)], Attribute]
    nodes: Names


class CpuModel(Part):
    """``model``: a section."""

    kind: Literal["cpu"]
    inputs: Names
    outputs: Names
    nodes: Names
    why: Annotated[str, Field(max_length=4096)]
    format: Literal["onnx", "tflite"]
    model: Section


StepModel = Annotated[SegmentModel | HostModel | CpuModel, Field(discriminator="kind")]


class Header(Part):
    """``sections``: bytes of each binary section, in file order."""

    name: Name
    overlay: Annotated[str, AfterValidator(check_name)]
    version: Annotated[int, Field(ge=1, le=65535)]
    lanes: Literal[8, 16]
    inputs: Annotated[tuple[SpecModel, ...], Field(max_length=256)]
    outputs: Annotated[tuple[SpecModel, ...], Field(min_length=1, max_length=256)]
    tensors: Annotated[tuple[TensorModel, ...], Field(max_length=4 * MAX_STEPS)]
    steps: Annotated[tuple[StepModel, ...], Field(min_length=1, max_length=MAX_STEPS)]
    sections: Annotated[tuple[Bytes, ...], Field(max_length=1 << 20)]
