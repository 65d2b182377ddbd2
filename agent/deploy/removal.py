"""Models go: out of service, off the disk; overlays after the last program that runs on them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, MutableMapping

from agent.deploy import overlays
from agent.deploy.resources import Resources
from agent.deploy.service import Service
from agent.errors import OverlaidError

log = logging.getLogger("deploy")


class Removals:
    """``services`` is shared with the manager: models by name. ``turns``: one lock a model, held while its service
    changes. ``open_digests``: packages that deployments under way need, ``awaited``: those that will be tried again.
    ``on_end`` hears of the end of each removal."""

    def __init__(
        self,
        res: Resources,
        services: MutableMapping[str, Service],
        turns: Mapping[str, asyncio.Lock],
        open_digests: Callable[[], set[str]],
        awaited: Callable[[], set[str]],
        on_end: Callable[[], None],
    ) -> None:
        self._res, self._services, self._turns = res, services, turns
        self._open_digests, self._awaited, self._on_end = open_digests, awaited, on_end
        self.tasks: dict[str, asyncio.Task[None]] = {}  # under way, by model
        self._kept: set[str] = set()  # overlays that are not wanted, and that programs run on

    def start(self, name: str) -> asyncio.Task[None]:
        """Remove a model; the task that does is the one under way, if there is one."""
        if name not in self.tasks:
            self.tasks[name] = asyncio.get_running_loop().create_task(self._remove(name))
        return self.tasks[name]

    def kept_for_programs(self, name: str) -> bool:
        """True while programs in service run on the overlay ``name``: it goes after the last of them."""
        users = [] if self._services[name].serves else overlays.users(self._res, name, self._services)
        if users and name not in self._kept:
            text = f"stays until nothing runs on it any more: {', '.join(users)}"
            log.info("%s: %s", name, text, extra={"model": name})
            self._res.telemetry.event("kept", text, name)
        (self._kept.add if users else self._kept.discard)(name)
        return bool(users)

    def collect(self, keep: Iterable[str] = ()) -> None:
        """On the event loop, so that no deployment can store anything between the look and the removal. ``keep``:
        packages beside those that versions and deployments under way need."""
        try:
            self._res.store.collect(self._open_digests() | set(keep))
        except OverlaidError as error:
            log.warning("garbage collection: %s", error)

    async def make_room(self, name: str) -> None:
        """Wait for the removals of other models under way, then drop what nothing needs."""
        removals = [task for model, task in self.tasks.items() if model != name]
        await asyncio.gather(*(asyncio.shield(task) for task in removals), return_exceptions=True)
        self.collect()

    async def _remove(self, name: str) -> None:
        try:
            async with self._turns[name]:
                await self._res.pool.unroute(name)
                self._services.pop(name, None)
                self._res.store.remove(name)
                self._res.journal.drop_placements(name, set())
                log.info("%s: removed, no longer wanted", name, extra={"model": name})
                self._res.telemetry.event("removed", "no longer wanted", name)
                self.collect(self._awaited())
        except OverlaidError as error:  # still on the disk: back at the next start, and removed then
            log.error("removing %s: %s", name, error, extra={"model": name})
        finally:
            self.tasks.pop(name, None)
            self._on_end()
