"""What ``overlaid init`` asks a person at a terminal."""

from __future__ import annotations

import argparse
import getpass
import socket
import sys
from pathlib import Path

from agent.errors import UsageError

NOTHING = "-"  # the answer of who presses return where nothing is an answer


def fill_in(args: argparse.Namespace) -> None:
    """Fill in what is missing, where a person sits at the terminal; UsageError names the option elsewhere."""
    asks = sys.stdin.isatty() and sys.stdout.isatty() and not args.json
    host = socket.gethostname().split(".")[0].lower()
    if args.site is None:
        args.site = _question(asks, "--site", "site (what the operator called it)")
    if args.name is None:
        args.name = _question(asks, "--name", "name of this node", host) if asks else host
    if args.board is None:
        text = "board; local is this machine's own hardware"
        args.board = _question(asks, "--board", text, "local") if asks else "local"
    if asks:
        args.broker = args.broker or _optional(
            "--broker", "broker, HOST[:PORT]; empty: none, this node is used locally"
        )
    args.password = None
    if asks and args.broker is not None:
        _credentials(args)


def _credentials(args: argparse.Namespace) -> None:
    if args.ca is None:
        ca = _optional("--ca", "file of the broker's authority; empty: no TLS")
        args.ca = None if ca is None else Path(ca)
    if args.cert is not None:
        return
    if args.username is None:
        args.username = _optional("--username", "user name at the broker; empty: none")
    if args.username is not None and args.password_file is None:
        try:
            args.password = getpass.getpass("password (is not shown): ") or None
        except EOFError:
            raise _ended("--password-file") from None
    if args.ca is not None and args.enrol is None:
        text = (
            "trust fingerprint, to get a certificate (overlaid fleet enrol shows it); empty: no certificate"
        )
        args.trust = args.trust or _optional("--trust", text)
        args.enrol = None if args.trust is None else ""


def _optional(option: str, text: str) -> str | None:
    found = _question(True, option, text, NOTHING)
    return None if found == NOTHING else found


def _question(asks: bool, option: str, text: str, default: str = "") -> str:
    if not asks:
        raise UsageError(f"{option} is missing; give it, or run overlaid init in a terminal, where it asks")
    shown = f" [{default}]" if default not in ("", NOTHING) else ""
    while True:
        try:
            found = input(f"{text}{shown}: ").strip() or default
        except EOFError:
            raise _ended(option) from None
        if found:
            return found


def _ended(option: str) -> UsageError:
    return UsageError(f"the input ended before {option} was answered; nothing was written")
