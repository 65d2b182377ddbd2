"""The node's own commands: run, status, devices, models, deploy, undeploy, restart."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.cli.output import (
    DAEMON_DOWN,
    Commands,
    add_budget,
    add_command,
    add_config,
    add_instances,
    add_json,
    budget_of,
    interrupted,
    print_json,
)
from agent.control import client
from agent.errors import ControlError, DaemonNotRunning, UsageError
from agent.paths import Folders, find_folders

REFRESH_S = 1.0
ORDER_TIMEOUT_S = 120.0


def register(commands: Commands[argparse.ArgumentParser]) -> None:
    run = _add(commands, "run", _run, "run the daemon in the foreground", "overlaid run --config agent.toml")
    run.add_argument("--verbose", action="store_true", help="log what is of use when something goes wrong")

    status = _add(
        commands,
        "status",
        _status,
        "the node at a glance; exit code 3 when the daemon is down",
        "overlaid status --watch",
    )
    status.add_argument("--watch", action="store_true", help="refresh every second until interrupted")
    add_json(status)

    devices = _add(
        commands, "devices", _devices, "devices, runtimes and power meters", "overlaid devices --json"
    )
    add_json(devices)
    models = _add(
        commands,
        "models",
        _models,
        "deployed models and their budgets; exit code 3 as status",
        "overlaid models",
    )
    add_json(models)

    deploy = _add(
        commands,
        "deploy",
        _deploy,
        "deploy a package folder on this node, without a broker",
        "overlaid deploy ./digits-1.0.0 --latency-p99 20ms --rate 10/s",
    )
    deploy.add_argument("package", type=Path, metavar="PACKAGE", help="a folder made by overlaid fleet pack")
    add_budget(deploy)
    add_instances(deploy)
    add_json(deploy)

    undeploy = _add(
        commands, "undeploy", _undeploy, "remove a locally deployed model", "overlaid undeploy digits"
    )
    restart = _add(commands, "restart", _restart, "restart a model's worker", "overlaid restart digits")
    for order in (undeploy, restart):
        order.add_argument("model", metavar="MODEL")
        add_json(order)


def _add(
    commands: Commands[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
    example: str,
) -> argparse.ArgumentParser:
    parser = add_command(commands, name, run, text, example)
    add_config(parser)
    return parser


def _run(args: argparse.Namespace) -> int:
    from agent.app import run
    from agent.config import load_config
    from agent.logs.start import start_logging

    config = load_config(args.config)
    start_logging(args.verbose, config.paths.state)
    return run(config)


def _snapshot(folders: Folders) -> tuple[dict[str, Any], bool]:
    """The daemon's snapshot and True, or the last recorded one and False; DaemonNotRunning without either."""
    try:
        answer: dict[str, Any] = client.ask(folders.control_socket, "snapshot")
        return answer, True
    except DaemonNotRunning as down:
        from agent.control import snapshot

        try:
            return snapshot.read(folders.snapshot), False
        except ControlError as error:
            raise DaemonNotRunning(f"{down} ({error})") from None


def _status(args: argparse.Namespace) -> int:
    from agent.cli.views import show_status

    folders = find_folders(args.config)
    while args.watch:
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            _show(folders, args.json, show_status)
        clear = "\x1b[H\x1b[2J" if sys.stdout.isatty() and not args.json else ""
        print(clear + text.getvalue(), flush=True)
        time.sleep(REFRESH_S)
    return _show(folders, args.json, show_status)


def _models(args: argparse.Namespace) -> int:
    from agent.cli.views import show_models

    return _show(find_folders(args.config), args.json, show_models)


def _show(folders: Folders, as_json: bool, show: Callable[[dict[str, Any]], None]) -> int:
    """Print the snapshot. When it is not the running daemon's, say so and exit with 3."""
    snapshot, running = _snapshot(folders)
    age = max(0.0, time.time() - snapshot["time"])
    if as_json:
        print_json({**snapshot, "daemon": "running" if running else "down", "age_s": round(age, 3)})
    else:
        if not running:
            from agent.cli.views import clock, span

            print(f"THE DAEMON IS DOWN; its last snapshot is {span(age)} old ({clock(snapshot['time'])})\n")
        show(snapshot)
    return 0 if running else DAEMON_DOWN


def _devices(args: argparse.Namespace) -> int:
    try:
        board = client.ask(find_folders(args.config).control_socket, "devices")
    except DaemonNotRunning:
        from agent.config import load_config
        from agent.devices.probe import probe_board
        from agent.types import to_jsonable

        config = load_config(args.config)
        board = to_jsonable(probe_board(config.node.board, config.paths.runtime))
    if args.json:
        print_json(board)
    else:
        from agent.cli.views import show_devices

        show_devices(board)
    return 0


def _deploy(args: argparse.Namespace) -> int:
    from agent.cli.progress import follow
    from agent.cli.views import runs
    from agent.package.directory import PackageDir
    from agent.package.manifest import parse_manifest
    from agent.types import to_jsonable

    package = args.package.absolute()
    if not package.is_dir():
        raise UsageError(f"{package} is not a folder; make a package: overlaid fleet pack MODEL -o {package}")
    budget = budget_of(args, lambda: parse_manifest(PackageDir(package).manifest()).is_overlay)
    folders = find_folders(args.config)
    # No time-out: a soak may take hours. The socket closes when the daemon goes away.
    answers = client.call(
        folders.control_socket,
        "deploy",
        timeout_s=None,
        package=str(package),
        budget=to_jsonable(budget),
        instances=args.instances,
    )
    with interrupted("the daemon goes on with the deployment: overlaid status"):
        done = follow(answers, package.name)
    if args.json:
        print_json(done)
        return 0
    placement = done["placement"]
    if placement is None:
        print(done["state"])
        return 0
    print(f"{placement['model']} {placement['version']}: {done['state']}, {runs(placement['candidate'])}")
    print(placement["reason"])
    return 0


def _undeploy(args: argparse.Namespace) -> int:
    return _order(args, "undeploy", "removed")


def _restart(args: argparse.Namespace) -> int:
    return _order(args, "restart", "restarted")


def _order(args: argparse.Namespace, op: str, done: str) -> int:
    client.ask(find_folders(args.config).control_socket, op, timeout_s=ORDER_TIMEOUT_S, model=args.model)
    if args.json:
        print_json({done: args.model})
    else:
        print(f"{args.model} is {done}")
    return 0
