from __future__ import annotations

import argparse

import pytest

from agent.cli.output import print_table, quantity
from agent.cli.views import number, span


def test_columns_are_aligned_numbers_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("NAME", "COUNT", "WHY"), [("a", 5, None), ("longer", 1000, "x\ty\x1b[31m")], "title")
    assert capsys.readouterr().out.splitlines() == [
        "title",
        "NAME    COUNT  WHY",
        "------  -----  --------",
        "a           5  -",
        "longer   1000  x y?[31m",
    ]


def test_the_last_column_wraps_to_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    print_table(("NAME", "WHY"), [("a", "word " * 20), ("b", "f" * 64)])
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 40 for line in lines)
    assert "".join(line[6:] for line in lines[2:]).replace(" ", "") == "word" * 20 + "f" * 64


def test_no_rows(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("NAME", "WHY"), [])
    assert capsys.readouterr().out == "NAME  WHY\n----  ---\n"


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("latency", "20ms", 20.0),
        ("latency", "1.5 s", 1500.0),
        ("rate", "30/min", 0.5),
        ("power", "500mW", 0.5),
    ],
)
def test_quantities_have_units(kind: str, text: str, value: float) -> None:
    assert quantity(kind)(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["20", "ms", "-1ms", "20 W", "1e400ms", "nan ms", ""])
def test_quantities_that_are_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="with a unit"):
        quantity("latency")(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, None), (0.0, "0"), (1e-9, "0"), (0.00012, "0.000120"), (1.23456, "1.23"), (12345.6, "12346")],
)
def test_numbers_are_short(value: float | None, text: str | None) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (61, "1 min 1 s"),
        (7200, "2 h"),
        (90_000, "1 d 1 h"),
        (-5, "0 s (its time lies in the future"),
    ],
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds).startswith(text)
