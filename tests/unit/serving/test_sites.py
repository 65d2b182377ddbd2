"""Which requests over TCP may come from programs of this machine, and which a browser sends for somebody's page."""

from __future__ import annotations

import pytest

from agent.serving.http.sites import foreign


@pytest.mark.parametrize(
    "host",
    [
        "",
        "localhost",
        "LOCALHOST:8000",
        "cam-7.localhost:8000",
        "127.0.0.1",
        "127.0.0.1:8000",
        "[::1]:8000",
        "10.0.0.7",
    ],
)
def test_names_that_nobody_can_point_here_are_this_machine(host: str) -> None:
    assert foreign(host, "") == ""


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "evil.example, localhost",
        "localhost.evil.example:8000",
        "notlocalhost",
        "user@localhost",
        "[::1].evil.example",
        "127.0.0.1:8000:80",
        "0x7f.1",
        "\xff",
    ],
)
def test_a_name_that_was_pointed_here_is_refused_by_name(host: str) -> None:
    assert repr(host[:64]) in foreign(host, "")


@pytest.mark.parametrize("origin", ["", "http://127.0.0.1:8000", "HTTP://127.0.0.1:8000"])
def test_programs_and_the_own_page_may_ask(origin: str) -> None:
    assert foreign("127.0.0.1:8000", origin) == ""


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "http://127.0.0.1:9000",
        "http://localhost:8000",
        "https://evil.example",
        "http://127.0.0.1:8000.evil",
        "x",
    ],
)
def test_pages_of_others_may_not(origin: str) -> None:
    assert repr(origin) in foreign("127.0.0.1:8000", origin)
