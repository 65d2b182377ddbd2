"""``overlaid fleet``: serve, deploy, undeploy, rollback, power-cap; with fleet_bind's bind and unbind, and
fleet_follow's status, watch and command."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from agent.cli import fleet_bind, fleet_follow
from agent.cli.fleet_desk import (
    add_command,
    add_targets,
    edited,
    named,
    open_desk,
    publish,
    seconds,
    targets_of,
)
from agent.cli.output import (
    Commands,
    add_budget,
    add_instances,
    add_json,
    budget_of,
    interrupted,
    one_cell,
    print_json,
    quantity,
)
from agent.errors import UsageError

if TYPE_CHECKING:
    from agent.fleet.actions import Change, Desk
    from agent.fleet.follow import Outcome
    from agent.link.topics import Target
    from agent.types import DesiredModel


def register(commands: Commands[argparse.ArgumentParser]) -> None:
    text = "answer nodes' requests for blocks, keep desired states valid, record what nodes say"
    serve = add_command(commands, "serve", _serve, text, "overlaid fleet serve --json >> serve.jsonl")
    serve.add_argument("--json", action="store_true", help="one JSON object a line on stdout")

    example = "overlaid fleet deploy digits@1.0.0 --node cam-7 --latency-p99 20ms --rate 10/s --wait"
    text = "run a published model within a budget on nodes or groups"
    deploy = add_command(commands, "deploy", _deploy, text, example)
    deploy.add_argument("package", metavar="MODEL@VERSION", help="what overlaid fleet publish published")
    add_targets(deploy)
    add_budget(deploy)
    add_instances(deploy)
    deploy.add_argument("--wait", action="store_true", help="follow it to its end; exit 0 when it succeeded")
    deploy.add_argument("--timeout", type=seconds, default=120.0, metavar="120", help="seconds of --wait")
    add_json(deploy)

    example = "overlaid fleet undeploy digits --node cam-7"
    undeploy = add_command(
        commands, "undeploy", _undeploy, "stop running a model on nodes or groups", example
    )
    undeploy.add_argument("model", metavar="MODEL")
    add_targets(undeploy)
    add_json(undeploy)

    text = "go back to the previous different desired state, as a new revision"
    rollback = add_command(commands, "rollback", _rollback, text, "overlaid fleet rollback --group cameras")
    add_targets(rollback)
    add_json(rollback)

    example = "overlaid fleet power-cap 3W --node cam-7"
    cap = add_command(commands, "power-cap", _power_cap, "cap the power that each node may draw", example)
    cap.add_argument("watts", type=_cap, metavar="WATTS|none", help="e.g. 3W or 800mW; none clears it")
    add_targets(cap)
    add_json(cap)

    fleet_bind.register(commands)
    fleet_follow.register(commands)


def _cap(text: str) -> float | None:
    return None if text == "none" else float(quantity("power")(text))


def _serve(args: argparse.Namespace) -> int:
    from agent.fleet.log import line_log
    from agent.fleet.repository import Repository
    from agent.fleet.service import only_one, serve
    from agent.waiting import stop_signals

    async def run(desk: Desk) -> None:
        with stop_signals() as stop:
            await serve(desk, Repository(desk.home.packages), line_log(args.json), stop)

    with open_desk(args) as desk, only_one(desk.home.path):
        asyncio.run(run(desk))
    return 0


def _deploy(args: argparse.Namespace) -> int:
    from agent.fleet.desired import with_model
    from agent.fleet.repository import Repository
    from agent.package.manifest import parse_manifest
    from agent.types import DesiredModel

    name, at, version = args.package.partition("@")
    if not (name and at and version):
        raise UsageError(f"{args.package!r} is not MODEL@VERSION, e.g. digits@1.0.0")
    with open_desk(args) as desk:
        targets = targets_of(args, desk.site)
        packages = Repository(desk.home.packages, desk.home.command)
        digest = packages.find(name, version)
        budget = budget_of(args, lambda: parse_manifest(packages.manifest(digest)).is_overlay)
        model = DesiredModel(name, version, digest, budget, args.instances)
        change = edited(desk, targets, lambda content: with_model(content, model))
        if args.wait:
            return _publish_and_wait(args, desk, targets, change, model)
        return publish(args, desk, targets, change)


def _undeploy(args: argparse.Namespace) -> int:
    from agent.fleet.desired import without_model

    with open_desk(args) as desk:
        targets = targets_of(args, desk.site)
        change = edited(desk, targets, lambda content: without_model(content, args.model))
        return publish(args, desk, targets, change)


def _power_cap(args: argparse.Namespace) -> int:
    from agent.fleet.desired import with_power_cap

    with open_desk(args) as desk:
        targets = targets_of(args, desk.site)
        change = edited(desk, targets, lambda content: with_power_cap(content, args.watts))
        return publish(args, desk, targets, change)


def _rollback(args: argparse.Namespace) -> int:
    from agent.fleet.desired import content_of, earlier

    with open_desk(args) as desk:
        targets = targets_of(args, desk.site)
        for target in targets:
            with named(desk, target):
                earlier(map(content_of, desk.operator.history(target)))
        return publish(args, desk, targets, desk.operator.roll_back)


def _publish_and_wait(
    args: argparse.Namespace, desk: Desk, targets: list[Target], change: Change, model: DesiredModel
) -> int:
    from agent.cli.fleet_show import DeployProgress
    from agent.fleet.actions import apply_and_wait
    from agent.types import State

    goes_on = f"what was published stays and the nodes go on: {desk.home.command('status')}"
    with interrupted(goes_on), DeployProgress(model, quiet=args.json) as progress:
        outcomes = asyncio.run(apply_and_wait(desk, targets, change, model, args.timeout, progress.show))
    if args.json:
        print_json({"model": model, "nodes": outcomes})
    else:
        for end in outcomes:
            print(
                f"{end.node}: {model.name} {model.version} {end.state.value}: {_details(end, model.version)}"
            )
    return 0 if all(end.state is State.SUCCEEDED for end in outcomes) else 1


def _details(end: Outcome, version: str) -> str:
    if end.running not in (None, version):
        return one_cell(f"{end.why}; {end.running} serves on: {end.place}")
    return one_cell(", ".join(text for text in (end.place, end.why) if text))
