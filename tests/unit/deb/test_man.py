from __future__ import annotations

import shutil
import subprocess

import pytest

from systemd.deb import man
from systemd.deb.tree import Command, whole

PAGES = man.pages(whole(), "1.2.3", 86400)


def test_there_is_a_page_for_each_group_of_commands() -> None:
    assert set(PAGES) >= {
        "overlaid.1",
        "overlaid-fleet.1",
        "overlaid-overlay.1",
        "overlaid-sim.1",
        "overlaid-service.1",
    }
    assert PAGES["overlaid.1"].startswith('.TH OVERLAID 1 1970-01-02 "overlaid 1.2.3"\n')


@pytest.mark.parametrize("command", list(whole().walk()), ids=lambda command: " ".join(command.words))
def test_every_command_is_on_a_page(command: Command) -> None:
    if not command.commands:
        group = f"overlaid-{command.words[1]}.1"
        page = PAGES[group if group in PAGES else "overlaid.1"]
        assert f'.SS "{man.plain(" ".join(command.words))}"' in page
        for option in command.options:
            if option.flags != ("-h", "--help"):
                assert f"\\fB{man.plain(option.flags[0])}\\fR" in page


@pytest.mark.parametrize(
    ("text", "set_as"),
    [
        (".sp begins a line", "\\&.sp begins a line"),
        ("'quoted'", "\\&'quoted'"),
        ("back\\slash --option", "back\\eslash \\-\\-option"),
        ("two\nlines", "two lines"),
    ],
)
def test_text_is_set_as_it_is(text: str, set_as: str) -> None:
    assert man.plain(text) == set_as


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is missing: sudo apt-get install groff-base")
@pytest.mark.parametrize("name", PAGES)
def test_groff_has_no_complaint(name: str) -> None:
    done = subprocess.run(
        ["groff", "-man", "-Tascii", "-P-c", "-P-bou", "-ww"],
        input=PAGES[name],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stderr == ""
    assert "EXIT STATUS" in done.stdout
