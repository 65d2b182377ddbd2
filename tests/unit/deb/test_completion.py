"""The completions, run by the shells themselves where they are."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from systemd.deb import completion
from systemd.deb.tree import whole

TOP = whole()
BASH = """
compopt() { :; }
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_overlaid
printf '%s\\n' "${COMPREPLY[@]}"
"""
# compadd is zsh's own way to offer words; _files stands for its file completion.
ZSH = """
compadd() { shift; print -l -- $@ }
_files() { print -l -- *(N) }
words=("$@")
CURRENT=$#
source ./completion
"""
Completes = Callable[..., set[str]]


def shell(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is missing: sudo apt-get install {name}")
    return found


@pytest.fixture(params=["bash", "zsh", "fish"])
def completes(request: pytest.FixtureRequest, tmp_path: Path) -> Completes:
    """What the shell offers for the last of some words, where the folder holds ``notes.toml``."""
    name: str = request.param
    program = shell(name)
    text = {"bash": completion.bash, "zsh": completion.zsh, "fish": completion.fish}[name](TOP)
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "notes.toml").touch()
    (folder if name == "zsh" else tmp_path).joinpath("completion").write_text(text)

    def ask(*words: str) -> set[str]:
        command = {
            "bash": [program, "-c", f"source ../completion\n{BASH}", "bash", *words],
            "zsh": [program, "-f", "-c", ZSH, "zsh", *words],
            "fish": [program, "--no-config", "-c", f'source ../completion; complete -C "{" ".join(words)}"'],
        }[name]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30, check=True)
        assert done.stderr == ""
        offered = {line.partition("\t")[0] for line in done.stdout.splitlines()}
        return {word for word in offered if word.startswith(words[-1])} - {""}

    return ask


def test_commands_and_commands_of_commands(completes: Completes) -> None:
    assert completes("overlaid", "fl") == {"fleet"}
    assert completes("overlaid", "fleet", "keys", "") == {"new", "show", "list"}


def test_options_of_the_command_that_is_typed(completes: Completes) -> None:
    assert completes("overlaid", "status", "--w") == {"--watch"}
    assert "--rate" in completes("overlaid", "fleet", "deploy", "digits@1.0.0", "--r")


def test_values_of_options(completes: Completes) -> None:
    assert completes("overlaid", "fleet", "bind", "--format", "") == {"json", "raw"}
    assert "notes.toml" in completes("overlaid", "run", "--config", "no")


def test_an_argument_that_is_named_like_a_command_is_none(completes: Completes) -> None:
    """``status`` after ``restart`` is a model's name."""
    assert completes("overlaid", "restart", "status", "--w") == set()
