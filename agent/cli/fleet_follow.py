"""``overlaid fleet``: status, watch, command."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING

from agent.cli.fleet_desk import add_command, open_desk, seconds
from agent.cli.output import Commands, add_json, interrupted, one_cell, print_json, quantity
from agent.errors import LinkError, UsageError, one_line

if TYPE_CHECKING:
    from agent.fleet.actions import Desk

OP_HELP = (
    "logs (what it logged), bench (measure a model again), cancel (its deployment), restart (its worker), "
    "download (now, at any hour)"
)


def register(commands: Commands[argparse.ArgumentParser]) -> None:
    text = "what every node runs, as the broker knows it or, without a broker, as last recorded"
    status = add_command(commands, "status", _status, text, "overlaid fleet status cam-7")
    status.add_argument(
        "node", nargs="?", metavar="NODE", help="only this node, with its devices and results"
    )
    add_json(status)

    text = "print a line for each change, until interrupted"
    watch = add_command(commands, "watch", _watch, text, "overlaid fleet watch --json | tee changes.jsonl")
    watch.add_argument("node", nargs="?", metavar="NODE")
    watch.add_argument("--json", action="store_true", help="one JSON object a line")

    text = "do one-off work on a node and print its result"
    send = add_command(
        commands, "command", _send, text, "overlaid fleet command logs --node cam-7 --lines 50"
    )
    send.add_argument(
        "op", metavar="OP", choices=("logs", "bench", "cancel", "restart", "download"), help=OP_HELP
    )
    send.add_argument("--node", required=True, metavar="NODE")
    send.add_argument("--model", metavar="MODEL", help="what it is about; logs may go without")
    send.add_argument("--lines", type=int, metavar="100", help="of logs, the newest ones, 1-1000")
    send.add_argument("--since", type=quantity("span"), metavar="1h", help="of logs, not older than this")
    send.add_argument("--bytes", type=int, metavar="98304", help="of logs, as JSON, 1024-98304")
    send.add_argument(
        "--timeout", type=seconds, default=30.0, metavar="30", help="seconds to wait for the result"
    )
    add_json(send)


def _status(args: argparse.Namespace) -> int:
    from agent.cli import fleet_show
    from agent.fleet.actions import look

    with open_desk(args) as desk:
        problem = None
        try:
            views = asyncio.run(look(desk))
        except LinkError as error:
            problem = one_line(error)
            views = desk.operator.views()
        if args.node is not None and args.node not in views:
            reason = f" ({problem})" if problem else ""
            known = ", ".join(sorted(views)) or "none"
            raise UsageError(f"node {args.node!r} was never heard{reason}; known: {known}")
        chosen = [view for name, view in sorted(views.items()) if args.node in (None, name)]
        if args.json:
            print_json(fleet_show.status_document(chosen, desk, problem))
        else:
            fleet_show.print_status(chosen, desk, problem, detail=args.node is not None)
    return 0 if problem is None else 1


def _watch(args: argparse.Namespace) -> int:
    from agent.fleet.actions import watch

    def lost(why: str) -> None:
        print(f"overlaid: disconnected: {why}", file=sys.stderr)

    async def run(desk: Desk) -> None:
        async for event in watch(desk, args.node, lost):
            stamp = time.strftime("%H:%M:%S", time.localtime(event.time))
            line = json.dumps(event.line()) if args.json else f"{stamp} {event.node}: {one_cell(event.text)}"
            print(line, flush=True)

    with open_desk(args) as desk:
        asyncio.run(run(desk))
    return 0


def _send(args: argparse.Namespace) -> int:
    from agent.cli import fleet_show
    from agent.fleet.actions import command
    from agent.link.topics import Target
    from agent.types import State, check_name

    if args.op != "logs" and args.model is None:
        raise UsageError(f"{args.op} needs --model MODEL")
    options = {"lines": args.lines, "since_s": args.since, "max_bytes": args.bytes}
    limits = {name: value for name, value in options.items() if value is not None}
    if limits and args.op != "logs":
        raise UsageError("--lines, --since and --bytes are for logs")
    with open_desk(args) as desk:
        try:
            node = Target(desk.site, args.node)
            model = check_name(args.model, "model") if args.model else None
        except ValueError as error:
            raise UsageError(str(error)) from error
        step = fleet_show.print_step
        later = f"if it was sent, the node carries it out all the same: {desk.home.command('watch')}"
        with interrupted(later):
            result = asyncio.run(command(desk, node, args.op, model, limits, args.timeout, step))
    if args.json:
        print_json(result.model_dump(mode="json"))
    else:
        fleet_show.print_result(args.node, result)
    return 0 if result.state is State.SUCCEEDED else 1
