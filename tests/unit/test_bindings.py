"""Bindings: one by one, and which of them go together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.bindings import MAX_BINDINGS, check_bindings, find_cycle, outputs
from agent.mqtt import check_filter, check_topic, matches
from agent.types import Binding

NAMES = st.sampled_from(["a", "b", "c", "d"])
Outputs = st.lists(NAMES, min_size=1, max_size=2).map("/".join)
Inputs = Outputs | st.sampled_from(["+", "a/#", "+/b", "c/+", "a/error", "b/#", "{node}/a"])
Bound = st.builds(Binding, Inputs, NAMES, Outputs)
Sets = st.lists(Bound, max_size=6, unique_by=lambda binding: binding.key)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"input_topic": "overlaid/v1/x"}, "input topic"),
        ({"output_topic": "a/+"}, "output topic"),
        ({"model": "Digits"}, "model"),
        ({"max_rate_hz": 0.0}, "max_rate_hz"),
        ({"max_rate_hz": float("nan")}, "max_rate_hz"),
    ],
)
def test_a_wrong_binding_says_what_is_wrong(fields: dict[str, object], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        Binding(**{"input_topic": "a", "model": "m", "output_topic": "b", **fields})  # type: ignore[arg-type]


@given(Bound, st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True))
def test_on_any_node_a_binding_keeps_to_the_rules(binding: Binding, node: str) -> None:
    here = binding.on_node(node)
    assert "{node}" not in here.input_topic + here.output_topic
    check_filter(here.input_topic, "input topic")
    check_topic(here.output_topic, "output topic")


def leads_to(one: Binding, other: Binding) -> bool:
    return any(matches(other.input_topic, topic) for topic in outputs(one))


@given(Sets)
def test_a_cycle_is_one(bindings: list[Binding]) -> None:
    cycle = find_cycle(bindings)
    for one, following in zip(cycle, (*cycle[1:], *cycle[:1]), strict=True):
        assert leads_to(one, following)


@given(Sets)
def test_no_cycle_is_missed(bindings: list[Binding]) -> None:
    reach = {one: {other for other in bindings if leads_to(one, other)} for one in bindings}
    for _ in bindings:
        reach = {one: found | {far for step in found for far in reach[step]} for one, found in reach.items()}
    assert bool(find_cycle(bindings)) == any(one in found for one, found in reach.items())


def test_a_long_chain_is_no_cycle_and_its_end_makes_one() -> None:
    chain = [Binding(f"t/{i}", "m", f"t/{i + 1}") for i in range(5000)]
    assert find_cycle(chain) == ()
    assert len(find_cycle([*chain, Binding("t/5000", "m", "t/0")])) == 5001


def test_a_cycle_is_refused_by_name() -> None:
    there, back = Binding("a", "m", "b"), Binding("b", "n", "a")
    with pytest.raises(ValueError, match="a -> m -> b; b -> n -> a"):
        check_bindings([there, back])
    with pytest.raises(ValueError, match="x/# -> m -> x/y"):
        check_bindings([Binding("x/#", "m", "x/y")])
    with pytest.raises(ValueError, match="for ever"):  # its errors would be its input
        check_bindings([Binding("b/error", "m", "b")])
    check_bindings([there, Binding("b", "n", "c")])


def test_inputs_that_cross_are_refused_and_those_within_are_not() -> None:
    with pytest.raises(ValueError, match="in part"):
        check_bindings([Binding("a/+/c", "m", "x"), Binding("a/b/+", "m", "y")])
    check_bindings([Binding("a/+/c", "m", "x"), Binding("a/b/c", "m", "y"), Binding("a/#", "m", "z")])


def test_the_same_topics_twice_and_too_many_are_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        check_bindings([Binding("a", "m", "b"), Binding("a", "n", "b")])
    full = [Binding(f"a/{i}", "m", "b") for i in range(MAX_BINDINGS)]
    check_bindings(full)
    with pytest.raises(ValueError, match="more than 32"):
        check_bindings([*full, Binding("a/x", "m", "b")])
