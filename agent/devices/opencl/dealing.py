"""How the pixels of a tensor are dealt out to work-items: much for each on a CPU, little for each of many on a GPU."""

from __future__ import annotations

from dataclasses import dataclass

from agent.devices.opencl.plan import Traits
from agent.devices.opencl.weights import LANES, blocks
from agent.overlay.graph import Pair

Size3 = tuple[int, int, int]

# kernels/conv_cpu.cl: pixels of a work-item, outputs of a block; kernels/windows.cl: words of a work-item's input
CPU_TILE, CPU_OUTPUTS, CPU_FIELD = 6, 16, 4096
CPU_VECTOR = 4  # kernels/common.cl: pixels of a vector
CPU_SHARE = 4  # work-items for each compute unit, so that none waits long for the last
CPU_WORK = 1 << 14  # what makes the start of a work-item cheap: bytes times taps
GPU_TILE = 4  # kernels/conv_gpu.cl: pixels of a work-item
GPU_GROUP, GPU_SIDE = 64, 8  # work-items of a work-group; along a side where it is a square
GPU_BUSY = 256  # work-items that a compute unit needs before each gets more to do


@dataclass(frozen=True, slots=True)
class Planes:
    """The size of a tensor."""

    channels: int
    height: int
    width: int

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def blocks(self) -> int:
        return blocks(self.channels)

    @property
    def nbytes(self) -> int:
        """On the device, in blocks of four channels."""
        return self.blocks * LANES * self.pixels


@dataclass(frozen=True, slots=True)
class Dealt:
    """Work-items of one sample and of a work-group; ``each``: what a work-item makes, as the kernels take it."""

    each: tuple[int, ...]
    size: Size3
    local: Size3


@dataclass(frozen=True, slots=True)
class Windows:
    """What of the input a pixel is made of."""

    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    def most(self, axis: int, length: int) -> int:
        """Windows side by side for which so much input is enough."""
        reach = (self.kernel[axis] - 1) * self.dilation[axis] + 1
        return (length - reach) // self.stride[axis] + 1

    def length(self, axis: int, count: int) -> int:
        """Input of so many windows side by side."""
        return (count - 1) * self.stride[axis] + (self.kernel[axis] - 1) * self.dilation[axis] + 1


def deal(made: Planes, windows: Windows, traits: Traits) -> Dealt:
    """Rectangles of a block: (columns, rows)."""
    if traits.kind != "cpu":
        wide, high = (min(GPU_SIDE, _power(side)) for side in (made.width, made.height))
        wide, high = (wide, high) if wide * high <= traits.group else (1, 1)
        return Dealt((1, 1), (_up(made.width, wide), _up(made.height, high), made.blocks), (wide, high, 1))
    columns = made.width
    if windows.length(0, 1) * windows.length(1, _up(columns, CPU_VECTOR)) > CPU_FIELD:
        fitting = windows.most(1, CPU_FIELD // windows.length(0, 1)) // CPU_VECTOR * CPU_VECTOR
        columns = fitting if fitting > 0 else columns
    worth = blocks(CPU_WORK, LANES * columns * windows.taps)
    fitting = windows.most(0, CPU_FIELD // windows.length(1, _up(columns, CPU_VECTOR)))
    shared = made.height * made.blocks // (CPU_SHARE * traits.units)
    rows = max(1, min(worth, fitting, shared, made.height))
    size = (blocks(made.width, columns), blocks(made.height, rows), made.blocks)
    return Dealt((columns, rows), size, (1, 1, 1))


def deal_line(made: Planes, traits: Traits) -> Dealt:
    """Parts of a block whose pixels are all in one row: (columns,)."""
    if traits.kind != "cpu":
        width = min(GPU_GROUP, _power(made.pixels), traits.group)
        return Dealt((1,), (_up(made.pixels, width), 1, made.blocks), (width, 1, 1))
    shared = _up(blocks(made.pixels * made.blocks, CPU_SHARE * traits.units), CPU_VECTOR)
    columns = min(CPU_WORK // LANES, shared)
    return Dealt((columns,), (blocks(made.pixels, columns), 1, made.blocks), (1, 1, 1))


def deal_tiles(made: Planes, traits: Traits) -> tuple[bool, Dealt]:
    """Tiles for a convolution, and whether they are of several pixels: on CPUs (blocks of 16 outputs,), on GPUs (how
    far the pixels of a tile are from one another,)."""
    if traits.kind != "cpu":
        reach = blocks(made.pixels, GPU_TILE)
        tiled = reach * made.blocks >= GPU_BUSY * traits.units
        reach = reach if tiled else made.pixels
        group = min(GPU_GROUP, _floor_power(traits.group))
        width = min(group, _power(reach))
        high = min(group // width, _power(made.blocks))
        return tiled, Dealt((reach,), (_up(reach, width), _up(made.blocks, high), 1), (width, high, 1))
    tiled = made.pixels > 1
    tiles = blocks(made.pixels, CPU_TILE) if tiled else 1
    outputs = blocks(made.channels, CPU_OUTPUTS)
    parts = min(outputs, blocks(CPU_SHARE * traits.units, tiles))
    span = blocks(outputs, parts)
    return tiled, Dealt((span,), (tiles, blocks(outputs, span), 1), (1, 1, 1))


def _power(least: int) -> int:
    """The power of two that is at least this."""
    return 1 << (least - 1).bit_length()


def _floor_power(most: int) -> int:
    return 1 << (most.bit_length() - 1)


def _up(number: int, step: int) -> int:
    return blocks(number, step) * step
