"""The status page in a real browser, of a real daemon on a simulated board."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.system.browser import Browser
from tests.system.digits import DIGITS, ask_digits
from tests.system.stage import Node, stage

CARD = "#models > li"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with stage(tmp_path) as it:
        node = it.node("bench-7", "[power]\ncap_w = 12.5\nsample_s = 0.5\n", mqtt=False, board="sim:rpi5")
        node.start()
        node.run("deploy", str(it.publish(DIGITS)), "--latency-p99", "40ms", "--rate", "10/s")
        yield node


class Load:
    """Requests one after another, until it is told to stop."""

    def __init__(self, node: Node) -> None:
        self._node, self._stop = node, threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        with np.load(DIGITS / "test.npz") as test:
            images = test["images"][:20]
        while not self._stop.is_set():
            ask_digits(self._node.port, images)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def test_the_page_shows_models_budgets_latency_and_power_and_says_when_nobody_answers(
    node: Node, tmp_path: Path
) -> None:
    base = f"http://127.0.0.1:{node.port}/"
    with Browser(tmp_path / "profile") as page:
        page.open(base)
        page.until("the model", lambda: "serving" in page.text(f"{CARD} .pill"))
        with Load(node):
            page.until("a latency", lambda: " ms" in page.text(f"{CARD} .big"))
            card = page.text(CARD)
            assert "digits" in card and "on cpu (onnxruntime)" in card and "budget 40 ms" in card
            for what, script in (
                ("latency", f"document.querySelector('{CARD} .spark path:nth-of-type(2)').getAttribute('d')"),
                ("power", "document.querySelector('#power .spark path:nth-of-type(2)').getAttribute('d')"),
            ):
                first = page.evaluate(script)
                page.until(f"moving {what}", partial(_moved, page, script, first))
        assert page.text("#watts").partition(" ")[2].startswith("W") and "cap 12.5 W" in page.text("#power")
        assert "simulated" in page.text("#rails")
        assert page.evaluate("document.title") == "1/1 serving – bench-7"
        assert "2 min" in page.evaluate(f"document.querySelector('{CARD} .axis').innerText")

        page.press("Tab")
        page.press("Enter")
        assert page.text("#pause") == "Go on"
        page.press("Enter")
        page.press("Tab")
        page.press("Enter")
        page.until("the details", lambda: "package" in page.text(f"{CARD} dl"))
        page.screenshot(tmp_path / "page.png")
        assert page.problems == []

        node.kill()
        page.until("the notice", lambda: "The daemon does not answer since" in page.text("#silent"))
        assert "digits" in page.text(CARD)  # its last state
        node.start()
        page.until("the daemon again", lambda: page.text("#silent") == "")
        assert {url for url in page.requests if not url.startswith(("data:", base))} == set()


# A card as the page makes it, with all that is long; whether its text stays inside, and has room.
LONG = """(() => {
  const own = card("very-long-model-name-that-goes-on-and-on-and-never-ends-really");
  at("models").append(own.root);
  show(own.pill, "serving, profiling 42 % 1.0.0", "pill busy");
  show(own.why, `ModelLoadError: /${"packages".repeat(40)}.onnx`, "bad");
  show(own.place, `${"variant".repeat(40)} on cpu`);
  return own.root.scrollWidth <= own.root.clientWidth && own.title.offsetHeight < 100;
})()"""


def test_long_names_and_errors_stay_in_their_cards(node: Node, tmp_path: Path) -> None:
    with Browser(tmp_path / "profile") as page:
        page.open(f"http://127.0.0.1:{node.port}/")
        page.until("the model", lambda: page.text(f"{CARD} .pill"))
        assert page.evaluate("at('pause').click()") is None  # so that it is not refreshed away
        assert page.evaluate(LONG)
        assert page.problems == []


def _moved(page: Browser, script: str, first: str) -> bool:
    return bool(page.evaluate(script) != first)
