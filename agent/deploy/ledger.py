"""How deployments go: the newest of each model in memory, each step in the journal, the log and telemetry."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from agent.deploy.attempt import final_state
from agent.deploy.journal import Deployment
from agent.deploy.resources import Resources
from agent.errors import (
    OverlaidError,
    OverlayLoadError,
    RepositoryError,
    RootMissing,
    StoreError,
    one_line,
)
from agent.serving.unwell import UNWELL
from agent.types import Phase, State

log = logging.getLogger("deploy")
RETRY_S = 300.0
_REPOSITORY: list[type[OverlaidError]] = [RepositoryError, *RepositoryError.__subclasses__()]
_REPOSITORY.remove(
    RootMissing
)  # which only this node's config heals; metadata may be renewed, a clock be set
_HEALING: tuple[type[OverlaidError], ...] = (StoreError, *UNWELL, *_REPOSITORY)
HEALING = tuple(f"{error.__name__}: " for error in _HEALING)  # why a deployment ended


def heals(last: Deployment) -> bool:
    """Whether what ended it may heal by itself: a silent server, a full disk, a lost device, metadata that expired."""
    if last.state is State.TIMED_OUT:
        return last.phase is Phase.DOWNLOADING
    return last.state in (State.FAILED, State.REJECTED) and last.why.startswith(HEALING)


class Ledger:
    """``latest``: the newest deployment by model; ``progress``: shares of the phases that are under way."""

    def __init__(self, res: Resources, on_change: Callable[[], None]) -> None:
        self._res, self._on_change = res, on_change
        self.latest: dict[str, Deployment] = {}
        self.progress: dict[str, float] = {}
        self._ended: dict[str, float] = {}  # the newest deployment of each model: monotonic seconds
        self._unwritten: dict[int, tuple[Deployment, State, str]] = {}  # ends that the disk refused, by id
        self._told: set[int] = set()

    def load(self) -> None:
        """What the journal remembers. Raises StoreError."""
        self.latest = self._res.journal.latest()

    def find(self, deployment_id: int) -> Deployment | None:
        """A deployment by id while it is its model's newest."""
        return next((d for d in self.latest.values() if d.id == deployment_id), None)

    def opened(self, deployment: Deployment) -> None:
        """A deployment that the journal has begins, or goes on after a restart."""
        self.latest[deployment.model.name] = deployment
        self._record(deployment)

    def advance(self, deployment: Deployment, phase: Phase, share: float) -> None:
        """A phase, which the journal knows, has come so far."""
        name = deployment.model.name
        self.progress[name] = share
        last = self.latest[name]
        if last.id == deployment.id and last.phase is not phase:
            self.latest[name] = replace(last, state=State.IN_PROGRESS, phase=phase)
            self._record(self.latest[name])
        self._on_change()

    def closed(self, deployment: Deployment, error: OverlaidError | None, why: str = "") -> None:
        """It succeeded (``why``: the reason of its placement), or ``error`` ended it."""
        name = deployment.model.name
        state = final_state(error) if error else State.SUCCEEDED
        why = f"{error.name}: {one_line(error)}" if error else why
        self._unwritten[deployment.id] = deployment, state, why
        self.write()
        last = self.latest[name]
        done = replace(last if last.id == deployment.id else deployment, state=state, why=why)
        if last.id == deployment.id:
            self.latest[name] = done
            self.progress.pop(name, None)
        self._ended[name] = time.monotonic()
        self._record(done)

    def write(self) -> bool:
        """Journal the ends that a disk refused so far; True when it has them all."""
        for number, (deployment, state, why) in list(self._unwritten.items()):
            try:
                self._res.journal.finish(deployment, state, why)
            except StoreError as error:  # should the daemon end before the disk heals, its next start decides
                if number not in self._told:
                    topic = {"model": deployment.model.name, "deployment": number}
                    log.error("%s: %s", deployment.model.name, error, extra=topic)
                    self._told.add(number)
                return False
            del self._unwritten[number]
            self._told.discard(number)
        return True

    def overlay_arrived(self) -> None:
        """What failed for want of an overlay may be tried again at once."""
        for name, last in self.latest.items():
            if last.why.startswith(f"{OverlayLoadError.__name__}: "):
                self._ended.pop(name, None)

    def may_retry(self) -> set[int]:
        """What may have healed by itself by now: what is desired stays so."""
        now = time.monotonic()
        return {
            last.id
            for last in self.latest.values()
            if heals(last) and now - self._ended.get(last.model.name, -RETRY_S) >= RETRY_S
        }

    def _record(self, deployment: Deployment) -> None:
        model, phase, why = deployment.model, deployment.phase, deployment.why
        where = "" if phase is None or deployment.state.final else f" {phase.value}"
        topic = {"model": model.name, "deployment": deployment.id}
        log.info("%s %s: %s%s %s", model.name, model.version, deployment.state.value, where, why, extra=topic)
        self._res.telemetry.deployment(model.name, model.version, model.digest, deployment.state, phase, why)
