"""Arrays in shared memory, without a service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.serving.client.address import Address
from agent.serving.client.errors import BadRequest
from agent.serving.client.memory import SharedArrays


class Alone(SharedArrays):
    """Registers nowhere."""

    def _register(self, name: str, fd: int) -> None: ...


@pytest.fixture
def arrays() -> Iterator[Alone]:
    made = Alone(Path("/nonexistent"))
    yield made
    made.close()


def test_views_are_found_and_other_arrays_are_not(arrays: Alone) -> None:
    made = arrays.make((4, 2), np.float32)
    name = arrays.place(made)
    assert name is not None and name[1] == 0
    assert arrays.place(made[1:3]) == (name[0], 8)
    assert arrays.place(np.zeros(8, np.float32)) is None


def test_one_thread_makes_an_array_while_another_asks_for_one(arrays: Alone) -> None:
    arrays.make(4, np.float32)

    class Meanwhile(np.ndarray[Any, Any]):
        __array_interface__ = {"data": (1 << 60, False)}  # noqa: RUF012  (behind all others)

        @property
        def nbytes(self) -> int:  # what place() asks for in the middle
            arrays.make(4, np.float32)
            return super().nbytes

    assert arrays.place(np.zeros(4, np.float32).view(Meanwhile)) is None


@pytest.mark.parametrize("shape", [0, -1, (-1, -4), (2**40, 2**40), (3, 0)])
def test_impossible_shapes_are_refused(arrays: Alone, shape: Any) -> None:
    with pytest.raises(BadRequest, match="shared memory"):
        arrays.make(shape, np.uint8)


@pytest.mark.parametrize("address", ["https://127.0.0.1:8000", "unix:///run/overlaid/http.sock", "http://"])
def test_other_kinds_of_address_are_refused(address: str) -> None:
    with pytest.raises(BadRequest, match="no address"):
        Address.parse(address)
