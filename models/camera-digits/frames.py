"""Digits of 8x8 pixels drawn into the 64x64 grey crops that a camera might give.

Each crop has its own size, place, turn, contrast, light, noise and stray pen strokes. All of it is random, from the
generator that is passed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn import functional

SIZE = 64  # pixels a side
DIGIT_SIZES = (24.0, 52.0)  # of the drawn digit, pixels a side
MAX_TURN = 15.0  # degrees
STROKES = 3  # at most
GREY_STEP = 4  # the camera gives 6 bits: every fourth value of a byte

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Split:
    """Digits [n,1,8,8] in 0..1 with their labels [n], for training and for the test."""

    train_digits: torch.Tensor
    train_labels: Labels
    test_digits: torch.Tensor
    test_labels: Labels


def load_split(seed: int) -> Split:
    """scikit-learn's 1,797 digits; a quarter of each class is held out, by the rule of models/digits."""
    data = load_digits()
    digits = torch.from_numpy((data.images / 16).astype(np.float32).reshape(-1, 1, 8, 8))
    labels = data.target.astype(np.int64)
    train, test = train_test_split(np.arange(len(labels)), test_size=0.25, stratify=labels, random_state=seed)
    return Split(digits[train], labels[train], digits[test], labels[test])


def render(digits: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Crops [n,1,64,64] in 0..1, dark ink on lighter paper, of digits [n,1,8,8] in 0..1."""
    count = len(digits)
    ink = torch.maximum(_placed(digits, random), _strokes(count, random))
    light = _uniform((count, 1, 1, 1), 0.55, 0.95, random)
    spots = _uniform((count, 1, 4, 4), -0.15, 0.15, random)
    paper = light + functional.interpolate(spots, size=(SIZE, SIZE), mode="bilinear", align_corners=True)
    contrast = _uniform((count, 1, 1, 1), 0.35, 0.75, random)
    noise = torch.randn((count, 1, SIZE, SIZE), generator=random) * _uniform(
        (count, 1, 1, 1), 0, 0.04, random
    )
    crops = (paper * (1 - contrast * ink) + noise).clamp(0, 1)
    return torch.floor(crops * 255 / GREY_STEP) * GREY_STEP / 255


def _uniform(shape: tuple[int, ...], low: float, high: float, random: torch.Generator) -> torch.Tensor:
    return low + (high - low) * torch.rand(shape, generator=random)


def _placed(digits: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Ink [n,1,64,64] in 0..1 of the digits, each scaled, turned and moved; its square box stays inside."""
    count = len(digits)
    scale = _uniform((count,), *DIGIT_SIZES, random) / SIZE
    turn = _uniform((count,), -math.radians(MAX_TURN), math.radians(MAX_TURN), random)
    centre = _uniform((count, 2), -1, 1, random) * (1 - scale)[:, None]  # the crop spans -1..1
    cos, sin = torch.cos(turn) / scale, torch.sin(turn) / scale
    # From a place in the crop to the place in the digit that is seen there.
    rotate = torch.stack([cos, -sin, sin, cos], dim=1).reshape(count, 2, 2)
    move = -rotate @ centre[:, :, None]
    grid = functional.affine_grid(
        torch.cat([rotate, move], dim=2), [count, 1, SIZE, SIZE], align_corners=False
    )
    return functional.grid_sample(digits, grid, align_corners=False)


def _strokes(count: int, random: torch.Generator) -> torch.Tensor:
    """Ink [n,1,64,64] in 0..0.8 of up to three straight strokes a crop, thin and fainter than most digits."""
    middle = _uniform((count, STROKES, 2), 0, SIZE, random)
    angle = _uniform((count, STROKES), 0, math.pi, random)
    half = _uniform((count, STROKES), 4, 12, random)  # half the length, pixels
    radius = _uniform((count, STROKES), 0.5, 1.2, random)
    drawn = torch.rand((count, STROKES), generator=random) < 0.5
    strength = _uniform((count, STROKES), 0.2, 0.8, random) * drawn

    axis = torch.arange(SIZE) + 0.5
    dx = axis[None, None, None, :] - middle[:, :, 0, None, None]  # [n, strokes, 1, 64]
    dy = axis[None, None, :, None] - middle[:, :, 1, None, None]  # [n, strokes, 64, 1]
    cos, sin = torch.cos(angle)[:, :, None, None], torch.sin(angle)[:, :, None, None]
    along = dx * cos + dy * sin
    beyond = (along.abs() - half[:, :, None, None]).clamp(min=0)
    distance = torch.sqrt((dy * cos - dx * sin) ** 2 + beyond**2)
    ink = (radius[:, :, None, None] + 0.5 - distance).clamp(0, 1) * strength[:, :, None, None]
    return ink.amax(dim=1, keepdim=True)
