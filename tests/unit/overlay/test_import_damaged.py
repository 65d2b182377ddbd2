"""Damaged files are refused by name, or are models all the same; nothing else happens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from agent.errors import ModelLoadError
from agent.overlay.graph import Graph
from agent.overlay.importers.import_onnx import import_onnx
from agent.overlay.importers.import_tflite import import_tflite

MODELS = Path(__file__).resolve().parents[3] / "models"
FILES: list[tuple[Callable[[bytes, str], Graph], Path]] = [
    (import_onnx, MODELS / "digits" / "digits-int8.onnx"),
    (import_tflite, MODELS / "camera-digits" / "camera-digits-int8.tflite"),
]
ROUNDS = 60


def structure(data: bytes) -> list[int]:
    """Where names and numbers of the format are: runs of mostly zeros and letters, not weights."""
    found = np.frombuffer(data, np.uint8)
    plain = (found < 10) | ((found >= 95) & (found < 123))
    dense = np.convolve(plain, np.ones(16) / 16, "same") > 0.8
    return np.flatnonzero(dense).tolist()


@pytest.mark.parametrize(("read", "file"), FILES)
def test_bytes_that_changed(read: Callable[[bytes, str], Graph], file: Path) -> None:
    data, rng = file.read_bytes(), np.random.default_rng(1)
    places = structure(data)
    assert len(places) > 500
    refused = 0
    for _ in range(ROUNDS):
        damaged = bytearray(data)
        for place in rng.choice(places, 4):
            damaged[place] = int(rng.integers(0, 256))
        try:
            read(bytes(damaged), "damaged")
        except ModelLoadError as error:
            refused += 1
            assert str(error)
    assert refused > 3  # the damage is felt
