"""``overlaid doctor``: what is wrong with this node, why, and the command that mends it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from agent.cli.output import Commands, add_command, add_config, add_json, one_cell, print_json, print_wrapped

if TYPE_CHECKING:
    from agent.doctor.finding import Finding, Level

WORDS = {"problem": "PROBLEM", "warning": "warning", "unknown": "not checked", "ok": "ok"}
INDENT = " " * 15


def register(commands: Commands[argparse.ArgumentParser]) -> None:
    text = "what is wrong with this node, why, and the command that mends it; exit code 1 when something is"
    doctor = add_command(commands, "doctor", _doctor, text, "overlaid doctor")
    add_config(doctor)
    doctor.add_argument("--all", action="store_true", help="show what is fine as well")
    add_json(doctor)


def _doctor(args: argparse.Namespace) -> int:
    from agent.cli.bar import progress_bar
    from agent.doctor.examination import examine
    from agent.doctor.finding import count

    with progress_bar() as progress:
        found = examine(args.config, progress)
    counts = count(found)
    if args.json:
        print_json({"counts": counts, "findings": found})
    else:
        shown = [finding for finding in found if args.all or finding.level != "ok"]
        _show(shown)
        print(_summary(counts, args.all))
    return 1 if counts["problem"] else 0


def _show(findings: list[Finding]) -> None:
    area = ""
    for finding in findings:
        if finding.area != area:
            area = finding.area
            print(area)
        print_wrapped(finding.what, f"  {WORDS[finding.level]:13}", INDENT)
        if finding.why:
            print_wrapped(finding.why, INDENT)
        if finding.mend:  # whole, so that it can be copied
            print(f"{INDENT}> {one_cell(finding.mend)}")
    if findings:
        print()


def _summary(counts: Mapping[Level, int], shows_all: bool) -> str:
    wrong: tuple[Level, ...] = ("problem", "warning")
    bad = [f"{counts[level]} {level}{'s' if counts[level] != 1 else ''}" for level in wrong if counts[level]]
    bad += [f"{counts['unknown']} not checked"] if counts["unknown"] else []
    rest = "" if shows_all else ": overlaid doctor --all"
    return f"{', '.join(bad) or 'nothing is wrong'}; {counts['ok']} checks are fine{rest}"
