"""How deployments ended, for the operator: ``reported`` shows what is, this stream each end, once and in order."""

from __future__ import annotations

import asyncio
import logging
import time

from agent.deploy.journal import Deployment, Journal
from agent.errors import LinkError, StoreError
from agent.link.messages import DeploymentEnd, TelemetryBatch
from agent.link.outbox import Outbox
from agent.link.spool import Priority
from agent.link.topics import Target
from agent.waiting import set_within

log = logging.getLogger("link")
BATCH_ROWS = 50  # a message holds their reasons however long
GATHER_S = 0.5
RETRY_S = 10.0
TOLD = "told ends"

Ended = tuple[float, Deployment]
End = tuple[int, float]  # a deployment's id, which a journal that was lost begins anew, and when it ended


class Endings:
    """Publishes ``telemetry/events``. The journal is the source: an end that a power cut kept from the outbox is told
    after the restart, and one that was lost with the outbox is told again."""

    def __init__(self, node: Target, boot_id: str, journal: Journal, outbox: Outbox) -> None:
        self._topic, self._boot_id = node.telemetry("events"), boot_id
        self._journal, self._outbox = journal, outbox
        self._told: set[End] | None = None
        self._damaged = 0
        self._changed = asyncio.Event()

    def look(self) -> None:
        """A deployment may have ended."""
        self._changed.set()

    async def run(self) -> None:
        """Queue each end until cancelled."""
        patience: float | None = 0.0
        while True:
            await set_within(self._changed, patience)
            self._changed.clear()
            try:
                while self._tell():
                    pass
                patience = None
            except (LinkError, StoreError) as error:
                log.warning("ends of deployments are not queued for the operator yet: %s", error)
                patience = RETRY_S
            await asyncio.sleep(GATHER_S)

    def _tell(self) -> bool:
        """Queue a batch; False when there is nothing to tell."""
        if self._told is None or self._damaged != self._outbox.damaged:
            self._damaged = self._outbox.damaged
            self._told = {(number, when) for number, when in self._outbox.note(TOLD) or ()}
        times = self._journal.ended()
        news = sorted(times.items() - self._told)[:BATCH_ROWS]
        if not news:
            return False
        told = (self._told & times.items()) | set(news)
        found = self._journal.find([number for number, _ in news])
        ended = [(times[deployment.id], deployment) for deployment in found]
        self._outbox.append(self._topic, [ended], self._encode, Priority.EVENT, {TOLD: sorted(told)})
        self._told = told
        return True

    def _encode(self, series: str, sequence: int, ended: list[Ended]) -> bytes:
        rows = [
            _row(when, deployment).model_dump(mode="json", exclude_none=True) for when, deployment in ended
        ]
        batch = TelemetryBatch(
            series=series, boot_id=self._boot_id, sequence=sequence, time=time.time(), rows=rows
        )
        return batch.encode()


def _row(when: float, deployment: Deployment) -> DeploymentEnd:
    model = deployment.model
    return DeploymentEnd(
        id=deployment.id,
        ended=when,
        origin=deployment.origin,
        target=deployment.target,
        revision=deployment.revision,
        model=model.name,
        version=model.version,
        digest=model.digest,
        state=deployment.state,
        phase=deployment.phase,
        why=deployment.why[:1000],
    )
