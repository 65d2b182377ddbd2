"""The line that ``systemctl status overlaid`` shows."""

from __future__ import annotations

from agent.types import ModelStatus, Snapshot, State

MAX_PROBLEM = 200


def status_line(now: Snapshot) -> str:
    """How many models serve, watts, the broker, and the first thing that is wrong, as text of one line."""
    serving = sum(1 for model in now.models if model.ready)
    models = f"{serving} of {len(now.models)} models serving" if now.models else "no models"
    parts = [models, *_power(now), *_broker(now)]
    problems = [*_unwell(now.models), *now.warnings]
    if problems:
        more = f" (and {len(problems) - 1} more: overlaid status)" if problems[1:] else ""
        parts.append(f"PROBLEM: {problems[0][:MAX_PROBLEM]}{more}")
    return "; ".join(parts)


def _power(now: Snapshot) -> list[str]:
    if now.power_w is None:
        return []
    cap = "" if now.power_cap_w is None else f" of {now.power_cap_w:.1f} W"
    return [f"{now.power_w:.1f} W{cap}"]


def _broker(now: Snapshot) -> list[str]:
    if now.broker == "none":
        return []
    return ["broker connected" if now.broker_connected else "broker not connected"]


def _unwell(models: tuple[ModelStatus, ...]) -> list[str]:
    return [
        f"{model.name} {model.version} {model.state.value}: {model.why}"
        for model in models
        if model.state.final and model.state is not State.SUCCEEDED
    ]
