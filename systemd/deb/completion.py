"""Completion of the ``overlaid`` command: for bash, fish, and zsh."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from systemd.deb.tree import Argument, Command

# `at`: the command so far, e.g. "/fleet/deploy"; words that are no command of it are arguments.
_BASH = """\
# bash completion of overlaid, made from its parsers
_overlaid_words() {
    mapfile -t COMPREPLY < <(compgen -W "$1" -- "$current")
}
_overlaid_files() {
    compopt -o filenames
    mapfile -t COMPREPLY < <(compgen -f -- "$current")
}
_overlaid() {
    local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} at= word
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case "$at/$word" in
            @COMMANDS@) at=$at/$word ;;
        esac
    done
    COMPREPLY=()
@BODY@
}
complete -F _overlaid overlaid
"""

_ZSH = """\
#compdef overlaid
# zsh completion of overlaid, made from its parsers
_overlaid_words() {
    compadd -- ${=1}
}
_overlaid_files() {
    _files
}
_overlaid() {
    local current=${words[CURRENT]} before=${words[CURRENT-1]} at= word
    for word in ${words[2,CURRENT-1]}; do
        case "$at/$word" in
            @COMMANDS@) at=$at/$word ;;
        esac
    done
@BODY@
}
_overlaid "$@"
"""


def bash(top: Command) -> str:
    return _filled(_BASH, top)


def zsh(top: Command) -> str:
    return _filled(_ZSH, top)


def _filled(template: str, top: Command) -> str:
    """What to offer is the same for both; how each looks at the line and offers words or files is in its template."""
    commands = list(top.walk())
    known = " | ".join(_path(command) for command in commands[1:])
    body = [
        '    case "$at,$before" in',
        *(line for command in commands for line in _values(command)),
        "    esac",
        '    case "$at,$current" in',
        *(f"        {_path(command)},-*) {_offer(_flags(command))} ;;" for command in commands),
        *(line for command in commands for line in _words(command)),
        "    esac",
    ]
    return template.replace("@COMMANDS@", known).replace("@BODY@", "\n".join(body))


def _path(command: Command) -> str:
    return "".join(f"/{word}" for word in command.words[1:])


def _flags(command: Command) -> list[str]:
    return [flag for option in command.options for flag in option.flags]


def _offer(words: Iterable[str]) -> str:
    return f"_overlaid_words '{' '.join(words)}'"


def _candidates(argument: Argument) -> str:
    if argument.choices:
        return _offer(argument.choices)
    return "_overlaid_files" if argument.takes_file else ":"


def _values(command: Command) -> Iterator[str]:
    """After an option that takes a value: its choices, files, or nothing."""
    by_candidates: dict[str, list[str]] = {}
    for option in command.options:
        if option.shown:
            patterns = by_candidates.setdefault(_candidates(option), [])
            patterns += [f"{_path(command)},{flag}" for flag in option.flags]
    for candidates, patterns in by_candidates.items():
        yield f"        {' | '.join(patterns)}) {candidates}; return ;;"


def _words(command: Command) -> Iterator[str]:
    """Commands, or the first positional argument that has candidates."""
    offers = [_candidates(argument) for argument in command.positionals]
    if command.commands:
        offers = [_offer(inner.words[-1] for inner in command.commands)]
    for offer in [offer for offer in offers if offer != ":"][:1]:
        yield f"        {_path(command)},*) {offer} ;;"


_FISH = """\
# fish completion of overlaid, made from its parsers
function __overlaid_at
    set -l at
    for word in (commandline -opc)[2..]
        contains -- "$at/$word" @COMMANDS@; and set at "$at/$word"
    end
    test "$at" = "$argv[1]"
end
"""


def fish(top: Command) -> str:
    commands = list(top.walk())
    lines = [_FISH.replace("@COMMANDS@", " ".join(_path(command) for command in commands[1:]))]
    for command in commands:
        where = f"complete -c overlaid -n '__overlaid_at \"{_path(command)}\"'"
        files = any(argument.takes_file for argument in command.positionals)
        if not files:
            lines.append(f"{where} -f")
        for inner in command.commands:
            lines.append(f"{where} -a {inner.words[-1]} -d {_quoted(inner.text)}")
        for argument in command.arguments:
            lines += _fish_argument(where, argument)
    return "\n".join(lines) + "\n"


def _fish_argument(where: str, argument: Argument) -> Iterator[str]:
    choices = f" -a {_quoted(' '.join(argument.choices))}" if argument.choices else ""
    if not argument.flags:
        if choices:
            yield f"{where}{choices}"
        return
    names = " ".join(
        f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in argument.flags
    )
    value = ""
    if argument.shown:
        value = " -r -F" if argument.takes_file else f" -x{choices}"
    yield f"{where} {names}{value} -d {_quoted(argument.text)}"


def _quoted(text: str) -> str:
    """For fish: between single quotes, where backslash and quote are escaped."""
    return "'" + " ".join(text.split()).replace("\\", "\\\\").replace("'", "\\'") + "'"
