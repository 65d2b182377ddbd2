"""Desired against installed: pure functions over values."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from agent.deploy.journal import Deployment
from agent.types import Binding, Budget, DesiredModel, DesiredState, State


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model that a target's desired state asks for."""

    model: DesiredModel
    target: str
    revision: int


@dataclass(frozen=True, slots=True)
class Effective:
    """What this node shall run after its own desired state and its groups' are merged."""

    models: Mapping[str, Wanted]
    power_cap_w: float | None
    bindings: tuple[Binding, ...] = ()


@dataclass(frozen=True, slots=True)
class Installed:
    """A model on this node. ``origin``: fleet or local; ``healthy``: in service, not just on the disk."""

    digest: str
    budget: Budget
    origin: str
    healthy: bool = True
    instances: int = 1


@dataclass(frozen=True, slots=True)
class Actions:
    """What to do, models in name order. ``supersede`` names open deployments that are no longer wanted, ``adopt``
    models deployed locally that the fleet asks for just so: they are the fleet's from now on."""

    deploy: tuple[Wanted, ...] = ()
    remove: tuple[str, ...] = ()
    supersede: tuple[str, ...] = ()
    adopt: tuple[str, ...] = ()


def effective(desired: Mapping[str, DesiredState], node: str, groups: Sequence[str]) -> Effective:
    """Merge by model, and by the topics of a binding: the node's own desired state wins over its groups', a group
    listed earlier over a later one.

    The power cap is the node's own, else the lowest of the groups' (every one of them must hold).
    """
    models: dict[str, Wanted] = {}
    bindings: dict[tuple[str, str], Binding] = {}
    for target in (node, *groups):
        state = desired.get(target)
        if state is None:
            continue
        for model in state.models:
            models.setdefault(model.name, Wanted(model, target, state.revision))
        for binding in (each.on_node(node.rpartition("/")[2]) for each in state.bindings):
            bindings.setdefault(binding.key, binding)
    caps = [desired[group].power_cap_w for group in groups if group in desired]
    own = desired[node].power_cap_w if node in desired else None
    cap = own if own is not None else min((cap for cap in caps if cap is not None), default=None)
    return Effective(models, cap, tuple(bindings.values()))


def reconcile(
    wanted: Mapping[str, Wanted],
    installed: Mapping[str, Installed],
    latest: Mapping[str, Deployment],
    may_retry: Container[int] = (),
) -> Actions:
    """Which models to deploy, remove or stop deploying.

    A digest that failed under a revision is not tried again until the revision changes, unless its deployment's id is
    in ``may_retry``; a deployment in progress of the same digest and budget goes on under a newer revision; what was
    deployed locally stays until the fleet names it.
    """
    deploy = []
    supersede = []
    adopt = []
    for name, want in sorted(wanted.items()):
        running = installed.get(name)
        last = latest.get(name)
        current = last is not None and last.model == want.model
        if last is not None and not last.state.final:
            if not current:
                supersede.append(name)
                deploy.append(want)
            continue
        if running is not None and running.healthy and _same(running, want.model):
            if running.origin != "fleet":
                adopt.append(name)
            continue
        if last is not None and current and _settled(last, want) and last.id not in may_retry:
            continue
        deploy.append(want)
    gone = [name for name, item in installed.items() if item.origin == "fleet" and name not in wanted]
    stale = [
        name
        for name, last in latest.items()
        if not last.state.final and last.origin == "fleet" and name not in wanted
    ]
    return Actions(tuple(deploy), tuple(sorted(gone)), tuple(sorted({*supersede, *stale})), tuple(adopt))


def _same(running: Installed, model: DesiredModel) -> bool:
    return (running.digest, running.budget, running.instances) == (
        model.digest,
        model.budget,
        model.instances,
    )


def _settled(last: Deployment, want: Wanted) -> bool:
    failed = last.state is not State.SUCCEEDED
    return failed and (last.target, last.revision) == (want.target, want.revision)
