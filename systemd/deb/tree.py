"""The CLI's parsers as values: what man pages and completions are made from."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Argument:
    """An option, or a positional argument where ``flags`` is empty. ``shown``: what stands for its value, "" without
    one. ``takes_file``: its value is a path."""

    flags: tuple[str, ...]
    shown: str
    text: str
    choices: tuple[str, ...] = ()
    takes_file: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """``words``: from ``overlaid`` on. ``usage``: one line."""

    words: tuple[str, ...]
    usage: str
    text: str
    description: str
    epilog: str
    arguments: tuple[Argument, ...]
    commands: tuple[Command, ...] = ()

    @property
    def options(self) -> tuple[Argument, ...]:
        return tuple(argument for argument in self.arguments if argument.flags)

    @property
    def positionals(self) -> tuple[Argument, ...]:
        return tuple(argument for argument in self.arguments if not argument.flags)

    def walk(self) -> Iterator[Command]:
        """This one and all below it."""
        yield self
        for command in self.commands:
            yield from command.walk()


def whole() -> Command:
    """All commands: the node's, the operator's, and those of the simulator."""
    from agent.cli import build_parser

    return read(build_parser(with_fleet=True, first="sim"), ("overlaid",))


def read(parser: argparse.ArgumentParser, words: tuple[str, ...], text: str = "") -> Command:
    """``text``: what its parent says of it in a line."""
    arguments: list[Argument] = []
    commands: list[Command] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            commands += [read(inner, (*words, name), helps[name]) for name, inner in action.choices.items()]
        elif action.help != argparse.SUPPRESS:
            arguments.append(_argument(parser, action))
    return Command(
        words,
        _usage(parser),
        text,
        parser.description or "",
        parser.epilog or "",
        tuple(arguments),
        tuple(commands),
    )


def _argument(parser: argparse.ArgumentParser, action: argparse.Action) -> Argument:
    formatter = parser._get_formatter()
    shown = formatter._format_args(action, _default_metavar(action)) if action.nargs != 0 else ""
    text = formatter._expand_help(action) if action.help else ""
    choices = tuple(str(choice) for choice in action.choices or ())
    return Argument(tuple(action.option_strings), shown, text, choices, action.type is Path)


def _default_metavar(action: argparse.Action) -> str:
    return action.dest.upper() if action.option_strings else action.dest


def _usage(parser: argparse.ArgumentParser) -> str:
    """In one line, however narrow the terminal is."""
    formatter = argparse.HelpFormatter(parser.prog, width=100_000)
    formatter.add_usage(None, parser._actions, parser._mutually_exclusive_groups, prefix="")
    return formatter.format_help().strip()
