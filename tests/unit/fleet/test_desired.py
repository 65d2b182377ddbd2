"""Edits of a desired state."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import UsageError
from agent.fleet.desired import (
    EMPTY,
    Content,
    content_of,
    earlier,
    issue,
    renewal_due,
    with_binding,
    with_model,
    with_power_cap,
    without_bindings,
    without_model,
)
from agent.types import MAX_MODELS, Binding, Budget, DesiredModel


def model(name: str, version: str = "1.0.0") -> DesiredModel:
    return DesiredModel(name, version, "ab" * 32, Budget(20.0, 10.0))


NAMES = st.sampled_from(["digits", "faces", "keys"])
CONTENTS = st.builds(
    lambda names, cap: Content(tuple(model(name) for name in sorted(names)), cap),
    st.sets(NAMES),
    st.none() | st.floats(0.1, 100),
)


def test_a_model_is_added_in_name_order_and_replaced_by_name() -> None:
    content = with_model(with_model(EMPTY, model("faces")), model("digits"))
    assert [m.name for m in content.models] == ["digits", "faces"]
    content = with_model(content, model("digits", "2.0.0"))
    assert [(m.name, m.version) for m in content.models] == [("digits", "2.0.0"), ("faces", "1.0.0")]


def test_removing_an_unknown_model_names_those_that_are_there() -> None:
    with pytest.raises(UsageError, match="deployed: digits"):
        without_model(with_model(EMPTY, model("digits")), "faces")
    with pytest.raises(UsageError, match="deployed: none"):
        without_model(EMPTY, "faces")


def test_a_full_target_takes_no_more_models_but_replaces() -> None:
    full = Content(tuple(model(f"m{i}") for i in range(MAX_MODELS)))
    with pytest.raises(UsageError, match="256 models"):
        with_model(full, model("one-more"))
    assert len(with_model(full, model("m7", "2.0.0")).models) == MAX_MODELS


def test_a_binding_is_added_replaced_by_its_topics_and_removed() -> None:
    one, two, other = Binding("b", "m", "c"), Binding("b", "m", "d"), Binding("a", "m", "c")
    content = EMPTY
    for binding in (one, two, other):
        content = with_binding(content, binding)
    assert content.bindings == (other, one, two)
    faster = Binding("b", "n", "c", "raw", 5.0)
    assert with_binding(content, faster).bindings == (other, faster, two)
    assert without_bindings(content, "b", "d").bindings == (other, one)
    assert without_bindings(content, "b", None).bindings == (other,)
    for topics in (("b", "x"), ("x", None)):
        with pytest.raises(UsageError, match="bound: a -> m -> c; b -> m -> c"):
            without_bindings(content, *topics)
    with pytest.raises(UsageError, match="d -> m -> a"):
        with_binding(with_binding(EMPTY, Binding("a", "m", "d")), Binding("d", "m", "a"))


def test_a_binding_is_part_of_what_is_rolled_back_and_renewed() -> None:
    bound = with_binding(EMPTY, Binding("a", "m", "b"))
    assert earlier([EMPTY, bound]) == bound
    assert content_of(issue(bound, 1, 0.0)) == bound


@pytest.mark.parametrize("watts", [0.0, -1.0, float("nan")])
def test_a_power_cap_is_positive(watts: float) -> None:
    with pytest.raises(UsageError, match="power cap"):
        with_power_cap(EMPTY, watts)


@given(CONTENTS, NAMES)
def test_adding_then_removing_leaves_the_others(content: Content, name: str) -> None:
    without = tuple(m for m in content.models if m.name != name)
    assert without_model(with_model(content, model(name, "9")), name) == Content(without, content.power_cap_w)


@given(st.lists(CONTENTS))
def test_earlier_is_the_newest_that_differs(history: list[Content]) -> None:
    different = [content for content in history if content != history[0]]
    if different:
        assert earlier(history) == different[0]
    else:
        with pytest.raises(UsageError, match="nothing to roll back to"):
            earlier(history)


def test_renewal_is_due_in_the_last_third() -> None:
    state = issue(EMPTY, 1, now=1000.0, validity_s=300.0)
    assert not renewal_due(state, 1199.0)
    assert renewal_due(state, 1201.0)
    assert renewal_due(state, 5000.0)
