"""What is announced while something is built."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent.devices import building


@pytest.fixture
def heard() -> Iterator[list[str]]:
    texts: list[str] = []
    building.listen(texts.append)
    yield texts
    building.listen(None)


def test_nobody_listens() -> None:
    building.announce("the engine of digits")


def test_the_listener_hears_one_line(heard: list[str]) -> None:
    building.announce("the engine\n of\tdigits \x1b[31mred\x00")
    assert heard == ["the engine of digits [31mred"]


@pytest.mark.parametrize(("length", "heard_length"), [(200, 200), (201, 200), (100_000, 200)])
def test_a_long_text_is_cut(heard: list[str], length: int, heard_length: int) -> None:
    building.announce("x" * length)
    assert len(heard[0]) == heard_length
    assert heard[0].endswith("...") == (length > 200)
