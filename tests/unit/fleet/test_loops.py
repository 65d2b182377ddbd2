"""Bindings of several nodes that lead back to each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.errors import UsageError
from agent.fleet.desired import Content, with_binding
from agent.fleet.loops import check_site, site_bindings
from agent.fleet.operator import Operator
from agent.fleet.views import Heard
from agent.link.messages import Capabilities
from agent.link.topics import Target
from agent.types import Binding

ONE, TWO = Target("lab", "n1"), Target("lab", "n2")
GROUP = Target("lab", "cams", group=True)


def adding(binding: Binding) -> Callable[[Content], Content]:
    return lambda content: with_binding(content, binding)


def test_a_group_s_binding_is_each_member_s() -> None:
    contents = {
        GROUP: Content(bindings=(Binding("a/{node}", "m", "b"),)),
        ONE: Content(bindings=(Binding("c", "m", "d"),)),
    }
    found = set(site_bindings(contents, {"n1": ("cams",), "n2": ("cams", "x"), "n3": ()}))
    assert found == {Binding("c", "m", "d"), Binding("a/n1", "m", "b"), Binding("a/n2", "m", "b")}


def test_two_nodes_that_answer_each_other_are_refused_by_name(tmp_path: Path) -> None:
    with Operator(tmp_path / "operator.db") as operator:
        operator.revise(ONE, adding(Binding("a", "m", "b")))
        check_site(operator, [TWO], adding(Binding("b", "m", "c")))
        with pytest.raises(UsageError, match="a -> m -> b; b -> m -> a"):
            check_site(operator, [TWO], adding(Binding("b", "m", "a")))
        board = Capabilities(agent_version="0", board={}, groups=["cams"])
        operator.record([Heard("n2", "capabilities", 1.0, board)])
        operator.revise(ONE, adding(Binding("a/n2", "m", "b")))
        with pytest.raises(UsageError, match="b -> m -> a/n2"):
            check_site(operator, [GROUP], adding(Binding("b", "m", "a/{node}")))
