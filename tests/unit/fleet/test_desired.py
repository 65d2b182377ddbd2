"""Edits of a desired state."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import UsageError
from agent.fleet.desired import (
    EMPTY,
    Content,
    earlier,
    issue,
    renewal_due,
    with_model,
    with_power_cap,
    without_model,
)
from agent.types import MAX_MODELS, Budget, DesiredModel


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
