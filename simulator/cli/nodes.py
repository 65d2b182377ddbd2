"""``overlaid sim nodes``: a fleet of simulated nodes on a broker."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli.bar import progress_bar
from agent.cli.output import Commands, add_command, add_json, one_cell, print_json, print_table, quantity
from agent.errors import TrustError, UsageError
from agent.types import to_jsonable

if TYPE_CHECKING:
    from agent.config import Deploy, Trust
    from agent.fleet.home import Home
    from simulator.nodes.node import Plan
    from simulator.nodes.report import Report
    from simulator.nodes.run import Request
    from simulator.scenario.files import Scenario

INTERRUPTED = 130
MAX_NODES = 500
ENDED = "ENDED"
LINE_EVERY_S = 1.0


def register(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = add_command(
        commands, "nodes", _nodes, "many nodes on simulated boards, in one process, on a real broker",
        "overlaid sim nodes --count 50 --broker localhost:1883 --wait digits",
    )  # fmt: skip
    parser.add_argument("--count", type=int, default=10, metavar="N", help="how many, 1 to 500 (default 10)")
    parser.add_argument(
        "--home", type=Path, metavar="DIR", help="the operator's folder (default: $OVERLAID_FLEET)"
    )
    parser.add_argument(
        "--broker", metavar="HOST:PORT", help="the broker, when not that of the operator's fleet.toml"
    )
    parser.add_argument("--site", metavar="SITE", help="the site, when not that of the operator's fleet.toml")
    parser.add_argument(
        "--group", default="sim", metavar="GROUP", help="the group of all these nodes (default sim)"
    )
    parser.add_argument(
        "--board", action="append", default=[], metavar="NAME",
        help="a simulated board; several are dealt out in turn (default: all, see overlaid sim boards)",
    )  # fmt: skip
    parser.add_argument(
        "--scenario", type=Path, metavar="FILE",
        help="a scenario whose faults hit every node with its board, from the start on",
    )  # fmt: skip
    parser.add_argument(
        "--soak", type=quantity("span"), default=2.0, metavar="2s", help="soak of a new version"
    )
    parser.add_argument(
        "--profile", type=quantity("span"), default=0.5, metavar="0.5s", help="profiling of a candidate"
    )
    parser.add_argument(
        "--wait",
        metavar="MODEL",
        help="end when MODEL's deployment has ended on every node; exit 0 if all succeeded",
    )
    parser.add_argument(
        "--for",
        type=quantity("span"),
        dest="seconds",
        metavar="60s",
        help="end after this time at the latest",
    )
    add_json(parser)


def _nodes(args: argparse.Namespace) -> int:
    import asyncio
    import logging

    from agent.waiting import stop_signals
    from simulator.nodes.run import Request, run_nodes

    if not 1 <= args.count <= MAX_NODES:
        raise UsageError(f"--count {args.count}: 1 to {MAX_NODES} nodes run in one process")
    scenario = _scenario(args)
    request = Request(_plan(args, scenario), args.count, scenario, args.wait, args.seconds)
    logging.basicConfig(
        level=logging.ERROR, format="%(name)s: %(message)s"
    )  # what nodes warn of is in their reports

    async def run() -> Report:
        with stop_signals() as stop, _progress(args.count) as show:
            return await run_nodes(request, stop, show)

    report = asyncio.run(run())
    if args.json:
        print_json({**to_jsonable(report), "all_succeeded": report.all_succeeded})
    else:
        _show(report, args.wait)
    return _exit_code(report, request)


def _exit_code(report: Report, request: Request) -> int:
    """Ctrl-C is the end that a run without --wait and --for waits for."""
    if report.interrupted and (request.model is not None or request.seconds is not None):
        return INTERRUPTED
    if request.model is not None:
        return 0 if report.all_succeeded else 1
    return 1 if ENDED in report.states else 0


def _scenario(args: argparse.Namespace) -> Scenario | None:
    from simulator.scenario.files import read_scenario

    if args.scenario is None:
        return None
    scenario = read_scenario(args.scenario)
    if args.board and scenario.board not in args.board:
        raise UsageError(f"{args.scenario} is about {scenario.board}: add --board {scenario.board}")
    return scenario


def _plan(args: argparse.Namespace, scenario: Scenario | None) -> Plan:
    """What the options and the operator's folder say; UsageError, ConfigError, TrustError."""
    from agent.fleet.home import Home, parse_broker
    from agent.types import check_name
    from simulator.nodes.node import Plan
    from simulator.profile import board_names

    home = Home(args.home)
    settings = home.load_settings()
    mqtt = settings.mqtt
    if args.broker is not None:
        host, port = parse_broker(args.broker, tls=mqtt.ca is not None)
        mqtt = mqtt.model_copy(update={"host": host, "port": port})
    try:
        site = check_name(args.site or settings.fleet.site, "site")
        group = check_name(args.group, "group")
        if args.wait is not None:
            check_name(args.wait, "model")
    except ValueError as error:
        raise UsageError(str(error)) from error
    boards = tuple(args.board) or ((scenario.board,) if scenario else tuple(board_names()))
    for board in boards:
        if board not in board_names():
            raise UsageError(f"there is no simulated board {board!r}; there are {', '.join(board_names())}")
    return Plan(site, group, boards, mqtt, _trust(home), _deploy(args))


def _deploy(args: argparse.Namespace) -> Deploy:
    from pydantic import ValidationError

    from agent.config import Deploy
    from agent.validation import explain_validation

    try:
        return Deploy(soak_s=args.soak, profile_s=args.profile)
    except ValidationError as error:
        raise UsageError(
            f"--soak and --profile are seconds of a node's [deploy]: {explain_validation(error)}"
        ) from error


def _trust(home: Home) -> Trust:
    """The operator's repository and key of commands; TrustError when one is missing."""
    from agent.config import Trust
    from agent.fleet.keys import COMMANDS, list_keys

    keys = tuple(str(key.public) for key in list_keys(home) if key.name == COMMANDS)
    if not keys:
        raise TrustError(
            f"{home.keys} has no key that signs {COMMANDS}; make it: {home.command(f'keys new {COMMANDS}')}"
        )
    root = home.repo / "root.json"
    if not root.exists():
        raise TrustError(f"{root} is not there; make the repository: {home.command('repo init')}")
    return Trust(root=root, command_keys=keys)


@contextmanager
def _progress(count: int) -> Iterator[Callable[[str, float], None]]:
    """A bar on a terminal, elsewhere a line when something has changed; on stderr."""
    if sys.stderr.isatty():
        with progress_bar() as show:
            yield show
        return
    last, due = "", 0.0

    def line(text: str, _share: float) -> None:
        nonlocal last, due
        if text != last and time.monotonic() >= due:
            last, due = text, time.monotonic() + LINE_EVERY_S
            print(text, file=sys.stderr, flush=True)

    print(f"starting {count} nodes", file=sys.stderr, flush=True)
    yield line


def _show(report: Report, model: str | None) -> None:
    rows = [
        (
            board.board, board.nodes, _counts(board.states), _counts(board.chosen), _number(board.deploy_p50_s),
            _number(board.deploy_p95_s), _number(board.deploy_max_s), _number(board.p50_ms), _number(board.p99_ms),
            _number(board.mj_per_run),
        )
        for board in report.boards
    ]  # fmt: skip
    print_table(
        ("BOARD", "NODES", "STATES", "CHOSEN", "DEPLOY P50 S", "P95 S", "MAX S", "P50 MS", "P99 MS", "MJ/RUN"), rows
    )  # fmt: skip
    print(f"\n{model or 'deployments'}: {_counts(report.states)}; {_deployed(report)}")
    for failure in report.failures:
        print(f"  {failure.count} x {failure.state}, e.g. {failure.node}: {one_cell(failure.why)}")
    wire, used = report.wire, report.footprint
    if report.blocks_sent_each is not None:
        print(
            f"blocks: {wire.blocks} sent {report.blocks_sent_each:.2f} times each, {_mb(wire.frame_bytes)}, for "
            f"{wire.requests} requests; nodes received {_mb(report.received_bytes)}, "
            f"{_mb(report.received_bytes / report.nodes)} each"
        )
    print(f"reports of the nodes: {_mb(wire.control_bytes)}")
    start = "not all were online" if used.start_s is None else f"online after {used.start_s:.1f} s"
    each = "" if used.mb_per_node is None else f", {used.mb_per_node:.2f} MB a node"
    print(
        f"process: {start}; {used.cpu_s:.1f} s of CPU in {used.seconds:.1f} s, {used.mb:.0f} MB{each}, "
        f"{used.threads} threads, {used.files} files"
    )


def _deployed(report: Report) -> str:
    if report.deploy_p50_s is None:
        return "nothing was deployed to its end"
    phases = ", ".join(f"{phase} {seconds:.2g}" for phase, seconds in report.phases_p95_s.items())
    return (
        f"from order to end p50 {_number(report.deploy_p50_s)}, p95 {_number(report.deploy_p95_s)}, "
        f"max {_number(report.deploy_max_s)} s (p95 by phase: {phases})"
    )


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name or 'nothing to do'} {count}" for name, count in sorted(counts.items()))


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.3g}"


def _mb(nbytes: float) -> str:
    return f"{nbytes / 1e6:.3g} MB"
