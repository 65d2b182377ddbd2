"""What a line is about: a model, a deployment, a device."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class About:
    """``deployment``: the journal's number of it."""

    model: str | None = None
    deployment: int | None = None
    device: str | None = None


_NOTHING = About()
_about: ContextVar[About] = ContextVar("about", default=_NOTHING)


@contextlib.contextmanager
def about(
    model: str | None = None, deployment: int | None = None, device: str | None = None
) -> Iterator[None]:
    """What lines are about that are written in the block, and by tasks and callbacks that begin in it.

    It takes the place of what an outer block said, so that a task which outlives its cause can begin anew.
    """
    token = _about.set(About(model, deployment, device))
    try:
        yield
    finally:
        _about.reset(token)


def about_of(record: logging.LogRecord) -> About:
    """Of a record, where it is written: its ``extra``, and what the block says unless that speaks of another model."""
    model, deployment, device = (getattr(record, name, None) for name in ("model", "deployment", "device"))
    around = _about.get()
    if model is not None and model != around.model:
        around = _NOTHING
    return About(
        model or around.model,
        around.deployment if deployment is None else deployment,
        device or around.device,
    )


def room_of(record: logging.LogRecord) -> str:
    """``agent.link.client`` → ``link``."""
    return record.name.removeprefix("agent.").split(".")[0]
