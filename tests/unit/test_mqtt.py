"""Topic filters: what they match, where they meet, and what a binding may use."""

from __future__ import annotations

from itertools import zip_longest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.mqtt import MAX_TOPIC_BYTES, ROOT, check_filter, check_topic, covers, matches, overlap

LEVELS = st.sampled_from(["a", "b", "", "overlaid", "v1"])
Topics = st.lists(LEVELS, min_size=1, max_size=4).map("/".join).filter(bool)
Filters = (
    st.tuples(st.lists(LEVELS | st.just("+"), max_size=4), st.booleans())
    .map(lambda it: "/".join([*it[0], *(["#"] if it[1] else [])]))
    .filter(bool)
)


@pytest.mark.parametrize(
    ("topic_filter", "topic", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/+", "a/b", True),
        ("a/+", "a", False),
        ("a/+", "a/", True),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("a/#", "ab", False),
        ("+/b", "/b", True),
        ("#", "a/b", True),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("A", "a", False),
    ],
)
def test_what_a_filter_matches(topic_filter: str, topic: str, expected: bool) -> None:
    assert matches(topic_filter, topic) is expected


@given(Filters, Filters, Topics)
def test_a_common_topic_means_that_they_overlap_and_cover(one: str, other: str, topic: str) -> None:
    if matches(one, topic) and matches(other, topic):
        assert overlap(one, other) and overlap(other, one)
    if covers(one, other) and matches(other, topic):
        assert matches(one, topic)


@given(Filters, Filters)
def test_an_overlap_has_a_common_topic(one: str, other: str) -> None:
    # The shortest topic that could match both: each level as the one says that names it.
    left, right = (
        [level for level in each.split("/") if level != "#" or each == "#"] for each in (one, other)
    )
    levels = [
        next((level for level in pair if level not in {"+", "#"}), "x")
        for pair in zip_longest(left, right, fillvalue="+")
    ]
    common = "/".join(levels)
    assert overlap(one, other) == (matches(one, common) and matches(other, common))


@given(Filters)
def test_a_filter_covers_itself_and_hash_covers_all(one: str) -> None:
    assert covers(one, one) and covers("#", one)


@given(Topics)
def test_what_may_be_published_on_may_be_listened_to(topic: str) -> None:
    own = topic == ROOT or topic.startswith(f"{ROOT}/")
    if own:
        for check in (check_topic, check_filter):
            with pytest.raises(ValueError, match="agent's own"):
                check(topic, "topic")
    else:
        assert check_topic(topic, "topic") == check_filter(topic, "topic") == topic


@pytest.mark.parametrize("wild", ["a/+", "#", "+", "a/#"])
def test_answers_go_to_one_topic(wild: str) -> None:
    with pytest.raises(ValueError, match="wildcard"):
        check_topic(wild, "output topic")


@pytest.mark.parametrize("wide", ["#", "+/v1/#", "overlaid/+/x", "+/+/plant/cam-7/desired", "{node}/v1/x"])
def test_a_filter_may_not_take_in_the_agents_topics(wide: str) -> None:
    with pytest.raises(ValueError, match="agent's own"):
        check_filter(wide, "input topic")


@pytest.mark.parametrize("text", ["a/b+", "a/#/b", "+a", "##"])
def test_a_wildcard_is_a_whole_level(text: str) -> None:
    with pytest.raises(ValueError, match="whole level"):
        check_filter(text, "input topic")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\0b",
        "a\nb",
        "\ud800",
        "x" * (MAX_TOPIC_BYTES + 1),
        "é" * 129,
        "{node}" * 5,
        "$SYS/x",
        "a/{nodes}/b",
    ],
)
def test_what_is_no_topic_is_refused(text: str) -> None:
    for check in (check_topic, check_filter):
        with pytest.raises(ValueError, match="topic"):
            check(text, "topic")
