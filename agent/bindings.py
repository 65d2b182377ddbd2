"""Bindings of MQTT topics to models as a set: what may stand side by side. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations

from agent.mqtt import covers, matches, overlap
from agent.types import Binding

MAX_BINDINGS = 32  # on one node
ERROR_LEVEL = "error"  # below the output topic: what went wrong, as JSON


def outputs(binding: Binding) -> tuple[str, str]:
    """Every topic that a binding publishes on: answers, errors."""
    return binding.output_topic, f"{binding.output_topic}/{ERROR_LEVEL}"


def check_bindings(bindings: Sequence[Binding]) -> None:
    """ValueError, naming the bindings, when they cannot run together on one node."""
    if len(bindings) > MAX_BINDINGS:
        raise ValueError(f"{len(bindings)} bindings are more than {MAX_BINDINGS}")
    if len({binding.key for binding in bindings}) != len(bindings):
        raise ValueError("bindings: an input and output topic appear twice together")
    for one, other in combinations({binding.input_topic for binding in bindings}, 2):
        if overlap(one, other) and not covers(one, other) and not covers(other, one):
            raise ValueError(
                f"bindings: input topics {one!r} and {other!r} take in the same messages in part, which a broker may "
                "deliver twice; write one that takes in the other"
            )
    cycle = find_cycle(bindings)
    if cycle:
        raise ValueError(f"bindings: {describe_cycle(cycle)}")


def describe_cycle(cycle: Sequence[Binding]) -> str:
    return f"answers would come back as input for ever: {'; '.join(map(str, cycle))}"


def find_cycle(bindings: Sequence[Binding]) -> tuple[Binding, ...]:
    """Bindings whose answers, or errors, lead back to the first one's input; empty when there are none such."""
    following = _Following(bindings)
    done: set[Binding] = set()
    for first in bindings:
        if first in done:
            continue
        path: dict[Binding, Iterator[Binding]] = {first: following.of(first)}
        while path:
            here = next(reversed(path))
            step = next(path[here], None)
            if step is None:
                done.add(here)
                del path[here]
            elif step in path:
                steps = list(path)
                return tuple(steps[steps.index(step) :])
            elif step not in done:
                path[step] = following.of(step)
    return ()


class _Following:
    """Which bindings take in what a binding publishes; a site's may be thousands, most without wildcards."""

    def __init__(self, bindings: Sequence[Binding]) -> None:
        self._exact: defaultdict[str, list[Binding]] = defaultdict(list)
        self._wild: list[Binding] = []
        for binding in bindings:
            if set(binding.input_topic) & set("+#"):
                self._wild.append(binding)
            else:
                self._exact[binding.input_topic].append(binding)

    def of(self, binding: Binding) -> Iterator[Binding]:
        for topic in outputs(binding):
            yield from self._exact.get(topic, ())
            yield from (other for other in self._wild if matches(other.input_topic, topic))
