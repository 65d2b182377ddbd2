import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.link.topics import Target, block_data, block_requests, metadata_data, metadata_requests
from agent.types import RESERVED_NAMES

Names = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True).filter(
    lambda name: name not in RESERVED_NAMES
)
Targets = st.builds(Target, Names, Names, st.booleans())


@given(Targets)
def test_targets_round_trip(target: Target) -> None:
    assert Target.parse(str(target)) == target


@given(Targets, Targets)
def test_different_targets_have_different_topics(one: Target, other: Target) -> None:
    assert (one == other) == (one.desired == other.desired)


@given(Targets)
def test_topics_have_one_direction_each(target: Target) -> None:
    topics = [
        target.desired,
        target.reported,
        target.status,
        target.capabilities,
        target.command("logs", "1"),
        target.result("logs", "1"),
        target.telemetry("summary"),
    ]
    assert len(set(topics)) == len(topics)
    assert all(topic.startswith(f"overlaid/v1/{target.site}/") for topic in topics)


@pytest.mark.parametrize(
    "name",
    ["", "A", "a_b", "a/b", "a+", "#", "-a", "group", "blocks", "repo", "a" * 64, "a\n", "ä", "a b", "a.b"],
)
def test_names_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="node"):
        Target("site", name)
    with pytest.raises(ValueError, match="site"):
        Target(name, "node")
    with pytest.raises(ValueError):
        Target.parse(f"site/group/{name}")


@pytest.mark.parametrize("text", ["", "a", "a/b/c", "a/group/b/c", "/", "a/"])
def test_texts_that_are_no_target_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Target.parse(text)


def test_block_topics_name_the_package() -> None:
    digest = "ab" * 32
    assert block_requests("plant", digest) == f"overlaid/v1/plant/blocks/{digest}/request"
    assert block_data("plant", digest) == f"overlaid/v1/plant/blocks/{digest}/data"
    with pytest.raises(ValueError, match="digest"):
        block_data("plant", "AB" * 32)
    with pytest.raises(ValueError, match="reserved"):
        block_data("blocks", digest)


@pytest.mark.parametrize(
    "name", ["timestamp.json", "3.snapshot.json", "999999999.root.json", "1.line-1.json", "7.json"]
)
def test_metadata_topics_name_the_file(name: str) -> None:
    assert metadata_requests("plant") == "overlaid/v1/plant/repo/request"
    assert metadata_data("plant", name) == f"overlaid/v1/plant/repo/data/{name}"


@pytest.mark.parametrize(
    "name",
    ["", "root", ".json", "0.root.json", "01.root.json", "1234567890.root.json", "1.2.root.json", "-a.json", "A.json",
     "a_b.json", "a/b.json", "../a.json", "+.json", "#", "root.json\n", f"{'a' * 64}.json", "root.json.tmp"],
)  # fmt: skip
def test_names_that_no_metadata_has_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="metadata"):
        metadata_data("plant", name)
