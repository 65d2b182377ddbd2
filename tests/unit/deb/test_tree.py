from __future__ import annotations

import argparse
from pathlib import Path

from systemd.deb.tree import Argument, read, whole


def test_every_command_is_there_with_its_help() -> None:
    found = {" ".join(command.words): command for command in whole().walk()}
    for words in (
        "overlaid status",
        "overlaid fleet keys new",
        "overlaid sim run",
        "overlaid service install",
    ):
        assert found[words].text and found[words].description and found[words].epilog
    assert [command.words for command in found.values() if command.words[1:] and not command.text] == []


def test_arguments_are_read_as_argparse_means_them() -> None:
    parser = argparse.ArgumentParser("p", description="Does it.")
    parser.add_argument("file", type=Path, metavar="FILE", help="what to read")
    parser.add_argument("--times", type=int, default=3, help="how often (default: %(default)s)")
    parser.add_argument("--how", choices=("well", "badly"))
    parser.add_argument("-q", "--quiet", action="store_true")
    parser.add_argument("--secret", help=argparse.SUPPRESS)
    command = read(parser, ("p",), "does it")
    assert command.positionals == (Argument((), "FILE", "what to read", (), True),)
    by_flag = {option.flags[-1]: option for option in command.options}
    assert by_flag["--times"] == Argument(("--times",), "TIMES", "how often (default: 3)")
    assert by_flag["--how"].choices == ("well", "badly")
    assert by_flag["--quiet"] == Argument(("-q", "--quiet"), "", "")
    assert "--secret" not in by_flag
    assert command.usage.startswith("p [-h]") and "\n" not in command.usage
