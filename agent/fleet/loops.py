"""Bindings of several nodes that would hand each other their answers for ever, which no node alone can see."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from agent.bindings import describe_cycle, find_cycle
from agent.errors import UsageError
from agent.fleet.desired import EMPTY, Content, content_of
from agent.fleet.operator import Operator
from agent.link.topics import Target
from agent.types import Binding


def check_site(operator: Operator, targets: Collection[Target], edit: Callable[[Content], Content]) -> None:
    """UsageError, naming the bindings, when the site's would form a cycle once the targets are edited."""
    contents = {}
    for target in dict.fromkeys([*operator.targets(), *targets]):
        latest = operator.latest(target)
        content = content_of(latest) if latest else EMPTY
        contents[target] = edit(content) if target in targets else content
    members = {name: view.groups for name, view in operator.views().items()}
    cycle = find_cycle(list(dict.fromkeys(site_bindings(contents, members))))
    if cycle:
        raise UsageError(describe_cycle(cycle))


def site_bindings(
    contents: Mapping[Target, Content], members: Mapping[str, Collection[str]]
) -> Iterable[Binding]:
    """Every binding as its node runs it; ``members``: the groups of each node that was ever heard."""
    for target, content in contents.items():
        nodes = (
            [node for node, groups in members.items() if target.name in groups]
            if target.group
            else [target.name]
        )
        for binding in content.bindings:
            yield from (binding.on_node(node) for node in nodes)
