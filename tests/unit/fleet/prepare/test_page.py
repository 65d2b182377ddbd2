"""The report's page: everything in it, nothing from elsewhere, nothing that a name could smuggle in."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

import pytest

from agent.fleet.prepare.drawing import Point, plot
from agent.fleet.prepare.page import make_page
from agent.fleet.prepare.prepare import prepare
from agent.fleet.prepare.values import Request
from tests.unit.fleet.prepare.nets import convolutional, save, save_data

VOID = {"meta"}


class Tags(HTMLParser):
    """Opened tags in order; every one is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a small net, as if it had been measured and pruned."""
    path = tmp_path_factory.mktemp("page")
    request = Request(
        save(path / "net.onnx", convolutional()), path / "out", ("cpu", "npu"), save_data(path / "data.npz")
    )
    prepare(request)
    found: dict[str, Any] = json.loads((request.out / "report.json").read_text())
    assert (request.out / "report.html").read_text() == make_page(found)
    cost = {"board": "sim:x", "device": "cpu", "kind": "cpu", "backend": "b", "simulated": True, "runs": 3}
    cost |= {"p50_ms": 1.0, "p99_ms": 2.0, "energy": "simulated", "holding_w": None}
    found["costs"] = [
        cost | {"variant": "fp32", "energy_mj": 2.0},
        cost | {"variant": "int8", "energy_mj": 1.0},
    ]
    found["costs"].append(cost | {"variant": "npu", "energy_mj": None})
    found["front"] = [["int8", "sim:x", "cpu"]]
    quality = {"samples": 9, "error": 0.5, "agreement": 0.9, "accuracy": None}
    found["pruning"] = [
        {"way": way, "share": share, "parameters": 5, "quality": quality, "cpu_ms": 1.0}
        for way, share in (("none", 0.0), ("channels", 0.5))
    ]
    return found


def test_the_page_needs_nothing_else(report: dict[str, Any]) -> None:
    tags = Tags(make_page(report))
    assert not {"script", "link", "img", "iframe"} & set(tags.found)
    assert not {"src", "href"} & {name for name, _ in tags.attributes}
    assert "url(" not in make_page(report)


def test_every_figure_has_its_place(report: dict[str, Any]) -> None:
    tags = Tags(make_page(report))
    assert tags.found.count("svg") == 2
    assert (
        tags.found.count("table") == 8
    )  # variants, costs, pruning, and trials and sensitivity twice, places
    text = " ".join(tags.texts)
    for words in ("int8-qlinear", "on the front", "are simulated", "GlobalAveragePool", "flatters"):
        assert words in text


def test_names_are_text_and_nothing_more(report: dict[str, Any]) -> None:
    evil = "<script>alert(1)</script>\"'&"
    changed = json.loads(json.dumps(report).replace("int8-qlinear", "@").replace("sim:x", "@"))
    page = make_page(json.loads(json.dumps(changed).replace("@", json.dumps(evil)[1:-1])))
    tags = Tags(page)
    assert "script" not in tags.found
    assert any(evil in text for text in tags.texts)


def test_a_report_without_measurements(report: dict[str, Any]) -> None:
    tags = Tags(make_page(report | {"costs": [], "front": [], "pruning": []}))
    assert "svg" not in tags.found
    assert "Nothing was measured." in tags.texts


def test_no_axis_goes_beyond_all() -> None:
    drawn = plot([Point(1.0, 100.0, "a", "", ""), Point(2.0, 90.0, "a", "", "")], "ms", "accuracy, %")
    assert ">100</text>" in drawn
    assert ">100.8</text>" not in drawn
    assert ">129.6</text>" in plot(
        [Point(1.0, 120.0, "a", "", ""), Point(2.0, 0.0, "a", "", "")], "ms", "error, %"
    )
