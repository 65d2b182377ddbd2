"""Keeps what the online key signs valid while ``fleet serve`` runs, and says in time what only people can renew."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator

from agent.errors import OverlaidError, one_line
from agent.fleet.home import Home
from agent.fleet.log import Log

SOON_DAYS = 30
AGAIN_S = 86_400.0  # what stays wrong is said once a day
RENEWED = "signed a new timestamp"
_ONLINE = frozenset({"snapshot", "timestamp"})


class Renewal:
    """Looks after the repository of ``home`` at once and then every ``every_s`` seconds. ``clock``: Unix seconds."""

    def __init__(
        self, home: Home, log: Log, every_s: float = 3600.0, clock: Callable[[], float] = time.time
    ) -> None:
        self._home, self._log, self._every_s, self._clock = home, log, every_s, clock
        self._said: dict[str, float] = {}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._every_s)

    async def look(self) -> None:
        """Once, on a thread: python-tuf is slow to import, and another writer may have the repository."""
        for text in await asyncio.to_thread(lambda: list(self._look())):
            self._say(text)

    def _look(self) -> Iterator[str]:
        from agent.fleet.repo import Repo

        repo = Repo(self._home, self._clock)
        try:
            if repo.renew():
                yield RENEWED
        except OverlaidError as error:
            yield f"the timestamp cannot be renewed: {one_line(error)}"
        with contextlib.suppress(OverlaidError):  # said above
            for role in repo.status().roles:
                if role.role not in _ONLINE and role.days < SOON_DAYS:
                    yield _expiry(role.role, role.days, self._home.command("repo sign --offline DIR"))

    def _say(self, text: str) -> None:
        now = time.monotonic()
        self._said = {each: said for each, said in self._said.items() if now - said < AGAIN_S}
        if text not in self._said:
            self._log("repo", text)
        if text != RENEWED:
            self._said.setdefault(text, now)


def _expiry(role: str, days: float, command: str) -> str:
    when = f"expires in {days:.0f} days; then nodes install" if days > 0 else "has expired: nodes install"
    return f"{role} of the repository {when} nothing new. Renew it: {command}"
