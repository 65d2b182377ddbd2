"""Edits of what a target shall run: pure functions over values. Numbering and storing is the operator's database's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from agent.bindings import check_bindings
from agent.errors import UsageError
from agent.types import MAX_MODELS, Binding, DesiredModel, DesiredState

VALIDITY_S = 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class Content:
    """What a desired state asks for, without its number and dates. Models and bindings are in the order of names."""

    models: tuple[DesiredModel, ...] = ()
    power_cap_w: float | None = None
    bindings: tuple[Binding, ...] = ()


EMPTY = Content()


def content_of(state: DesiredState) -> Content:
    return Content(state.models, state.power_cap_w, state.bindings)


def with_model(content: Content, model: DesiredModel) -> Content:
    """Add a model, or replace the one of that name. UsageError when the target is full."""
    others = [other for other in content.models if other.name != model.name]
    if len(others) >= MAX_MODELS:
        raise UsageError(f"{MAX_MODELS} models are the most that one target may have; undeploy one first")
    return replace(content, models=tuple(sorted((*others, model), key=lambda item: item.name)))


def without_model(content: Content, name: str) -> Content:
    """Remove a model. UsageError, naming those that are there, when it is not."""
    kept = tuple(model for model in content.models if model.name != name)
    if len(kept) == len(content.models):
        there = ", ".join(model.name for model in kept) or "none"
        raise UsageError(f"no model {name!r} is deployed to this target; deployed: {there}")
    return replace(content, models=kept)


def with_binding(content: Content, binding: Binding) -> Content:
    """Add a binding, or replace the one of its topics. UsageError when it does not go with the others."""
    others = [other for other in content.bindings if other.key != binding.key]
    bindings = tuple(sorted((*others, binding), key=lambda item: item.key))
    try:
        check_bindings(bindings)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return replace(content, bindings=bindings)


def without_bindings(content: Content, input_topic: str, output_topic: str | None) -> Content:
    """Remove the binding of these topics, or with None all that listen to the input topic. UsageError, naming those
    that are there, when there is none such."""
    kept = tuple(
        binding
        for binding in content.bindings
        if binding.input_topic != input_topic or output_topic not in (None, binding.output_topic)
    )
    if len(kept) == len(content.bindings):
        there = "; ".join(map(str, content.bindings)) or "none"
        wanted = input_topic if output_topic is None else f"{input_topic} -> {output_topic}"
        raise UsageError(f"nothing is bound from {wanted} on this target; bound: {there}")
    return replace(content, bindings=kept)


def with_power_cap(content: Content, watts: float | None) -> Content:
    """Set the power cap in watts, or clear it with None. UsageError when it is not positive."""
    if watts is not None and not watts > 0:
        raise UsageError("a power cap must be more than 0 W; 'none' clears it")
    return replace(content, power_cap_w=watts)


def earlier(newest_first: Iterable[Content]) -> Content:
    """The newest content that differs from the present one. UsageError when there is none."""
    history = iter(newest_first)
    present = next(history, None)
    for content in history:
        if content != present:
            return content
    raise UsageError("nothing to roll back to: this target never had a different desired state")


def issue(content: Content, revision: int, now: float, validity_s: float = VALIDITY_S) -> DesiredState:
    """Number and date a content. Times in Unix seconds."""
    return DesiredState(
        revision, now, now + validity_s, content.models, content.power_cap_w, content.bindings
    )


def renewal_due(state: DesiredState, now: float) -> bool:
    """True in the last third of the state's period, and after it."""
    return state.expires - now < (state.expires - state.issued) / 3
