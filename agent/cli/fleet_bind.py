"""``overlaid fleet``: bind, unbind."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from agent.cli.fleet_desk import add_command, add_targets, edited, open_desk, publish, targets_of
from agent.cli.output import Commands, add_json, quantity
from agent.errors import UsageError

if TYPE_CHECKING:
    from agent.fleet.desired import Content


def register(commands: Commands[argparse.ArgumentParser]) -> None:
    example = (
        "overlaid fleet bind --node cam-7 --model digits --from sensors/cam-7/frame --to plant/cam-7/digit "
        "--format raw --max-rate 10/s"
    )
    text = "run the messages of an MQTT topic through a model and publish its answers"
    bind = add_command(commands, "bind", _bind, text, example)
    bind.add_argument("--model", required=True, metavar="MODEL", help="waits until it is deployed there")
    bind.add_argument(
        "--from",
        dest="input_topic",
        required=True,
        metavar="TOPIC",
        help="a topic or topic filter; {node} in it is the node's name",
    )
    bind.add_argument(
        "--to",
        dest="output_topic",
        required=True,
        metavar="TOPIC",
        help="for the answers; TOPIC/error gets what goes wrong",
    )
    text = "json: inference requests or arrays; raw: the tensors' bytes (default: json)"
    bind.add_argument("--format", choices=("json", "raw"), default="json", help=text)
    bind.add_argument(
        "--max-rate", type=quantity("rate"), metavar="10/s", help="what comes faster is dropped and counted"
    )
    bind.add_argument(
        "--qos", type=int, choices=(0, 1), default=0, help="of messages and answers (default: 0)"
    )
    add_targets(bind)
    add_json(bind)

    example = "overlaid fleet unbind --node cam-7 --from sensors/cam-7/frame"
    unbind = add_command(commands, "unbind", _unbind, "undo a binding of an MQTT topic to a model", example)
    unbind.add_argument("--from", dest="input_topic", required=True, metavar="TOPIC")
    unbind.add_argument(
        "--to", dest="output_topic", metavar="TOPIC", help="only the binding to this topic (default: all)"
    )
    add_targets(unbind)
    add_json(unbind)


def _bind(args: argparse.Namespace) -> int:
    from agent.fleet.desired import with_binding
    from agent.fleet.loops import check_site
    from agent.types import Binding

    try:
        binding = Binding(
            args.input_topic, args.model, args.output_topic, args.format, args.max_rate, args.qos
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    with open_desk(args) as desk:
        targets = targets_of(args, desk.site)

        def edit(content: Content) -> Content:
            return with_binding(content, binding)

        change = edited(desk, targets, edit)
        check_site(desk.operator, targets, edit)
        return publish(args, desk, targets, change)


def _unbind(args: argparse.Namespace) -> int:
    from agent.fleet.desired import without_bindings

    with open_desk(args) as desk:
        targets = targets_of(args, desk.site)
        change = edited(
            desk, targets, lambda content: without_bindings(content, args.input_topic, args.output_topic)
        )
        return publish(args, desk, targets, change)
