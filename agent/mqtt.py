"""Names of MQTT topics and topic filters (MQTT 3.1.1, section 4.7): what is one, and which of them meet. Pure."""

from __future__ import annotations

ROOT = "overlaid/v1"  # of every topic that the agent and the operator use between them
MAX_TOPIC_BYTES = 256  # of a binding's topics
NODE = "{node}"  # in a binding's topics: the name of the node that runs it, whatever that is
_LONGEST_NAME = "n" * 63


def check_topic(topic: str, what: str) -> str:
    """Return ``topic`` when an application may publish on it; ValueError otherwise."""
    _check(topic, what)
    if set(topic) & set("+#"):
        raise ValueError(f"{what} {topic!r} has a wildcard; answers go to one topic")
    if overlap(_widest(topic), f"{ROOT}/#"):
        raise ValueError(f"{what} {topic!r} lies, or may lie, under {ROOT}, which is the agent's own")
    return topic


def check_filter(topic_filter: str, what: str) -> str:
    """Return ``topic_filter`` when it is one that no topic of the agent matches; ValueError otherwise."""
    _check(topic_filter, what)
    levels = topic_filter.split("/")
    if any(len(level) > 1 and set(level) & set("+#") for level in levels) or "#" in levels[:-1]:
        raise ValueError(f"{what} {topic_filter!r}: '+' stands for a whole level, '#' for all that follow")
    if overlap(_widest(topic_filter), f"{ROOT}/#"):
        raise ValueError(f"{what} {topic_filter!r} takes in topics under {ROOT}, which are the agent's own")
    return topic_filter


def _check(text: str, what: str) -> None:
    # Not printable are also lone surrogates, which are no UTF-8.
    if not text.isprintable() or not 0 < len(text.replace(NODE, _LONGEST_NAME).encode()) <= MAX_TOPIC_BYTES:
        raise ValueError(f"{what} {text[:80]!r} must be 1-{MAX_TOPIC_BYTES} bytes without control characters")
    if set(text.replace(NODE, "")) & set("{}"):
        raise ValueError(f"{what} {text!r}: braces may only be those of {NODE}")
    if text.startswith("$"):
        raise ValueError(f"{what} {text!r} begins with '$', which is the broker's own")


def _widest(text: str) -> str:
    return "/".join("+" if NODE in level else level for level in text.split("/"))


def matches(topic_filter: str, topic: str) -> bool:
    """True when a subscription to the filter brings messages on the topic."""
    hidden = topic.startswith("$") and topic_filter[:1] in {"+", "#"}
    return not hidden and overlap(topic_filter, topic)


def overlap(one: str, other: str) -> bool:
    """True when some topic matches both filters; a topic is a filter that matches itself."""
    left, right = one.split("/"), other.split("/")
    for a, b in zip(left, right, strict=False):
        if "#" in (a, b):
            return True
        if a != b and "+" not in (a, b):
            return False
    # 'a/#' matches 'a' as well.
    rest = left[len(right) :] or right[len(left) :]
    return not rest or rest == ["#"]


def covers(wide: str, narrow: str) -> bool:
    """True when every topic that matches ``narrow`` matches ``wide``."""
    left, right = wide.split("/"), narrow.split("/")
    for a, b in zip(left, right, strict=False):
        if a == "#":
            return True
        if b == "#" or a not in ("+", b):
            return False
    return len(left) == len(right) or left[len(right) :] == ["#"]
