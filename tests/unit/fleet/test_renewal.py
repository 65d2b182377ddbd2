"""What ``fleet serve`` does for the repository, and what it says of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agent.fleet import renewal
from agent.fleet.home import Home
from agent.fleet.renewal import SOON_DAYS, Renewal
from agent.fleet.repo import Repo

DAY_S = 86_400.0
START = 1_800_000_000.0


class Operator:
    """A repository, a clock, and what was said."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder)
        self.now = START
        self.said: list[str] = []
        self.renewal = Renewal(self.home, self._log, clock=lambda: self.now)

    def _log(self, event: str, text: str, **data: object) -> None:
        assert event == "repo"
        self.said.append(text)

    @property
    def repo(self) -> Repo:
        return Repo(self.home, lambda: self.now)

    def timestamp(self) -> tuple[int, float]:
        """Version and days that it is valid."""
        found = {role.role: role for role in self.repo.status().roles}["timestamp"]
        return found.version, found.days

    def look(self, times: int = 1) -> list[str]:
        """Let the job look; what was said."""

        async def run() -> None:
            for _ in range(times):
                await self.renewal.look()

        self.said.clear()
        asyncio.run(run())
        return list(self.said)


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    it = Operator(tmp_path / "fleet")
    it.repo.init()
    return it


def test_the_timestamp_is_renewed_once_a_day(operator: Operator) -> None:
    before, _ = operator.timestamp()
    assert operator.look(3) == []
    operator.now += 1.1 * DAY_S
    assert operator.look(3) == ["signed a new timestamp"]
    version, days = operator.timestamp()
    assert version == before + 1 and days > 6.9


def test_one_that_expired_meanwhile_is_renewed_too(operator: Operator) -> None:
    operator.now += 40 * DAY_S
    assert operator.look() == ["signed a new timestamp"]
    assert operator.timestamp()[1] > 6.9


def test_a_key_that_is_away_is_said_once_a_day(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    (operator.home.keys / "online.pem").rename(operator.home.keys / "elsewhere.pem")
    operator.now += 2 * DAY_S
    (text,) = operator.look(3)
    assert (
        "cannot be renewed" in text and "online.pem" in text and "overlaid fleet repo rotate online" in text
    )
    assert operator.look(2) == []
    monkeypatch.setattr(renewal, "AGAIN_S", 0.0)
    assert text in operator.look()


def test_what_only_people_can_renew_is_said_in_time(operator: Operator) -> None:
    operator.now += (365 - SOON_DAYS - 1) * DAY_S
    assert operator.look() == ["signed a new timestamp"]
    operator.now += 2 * DAY_S
    said = operator.look(2)[1:]
    assert [text.split()[0] for text in said] == ["root", "targets", "packages"]
    assert all("expires in 29 days" in text and "overlaid fleet repo sign" in text for text in said)
    operator.now += SOON_DAYS * DAY_S
    assert any(text.startswith("root of the repository has expired") for text in operator.look())


def test_without_a_repository_it_says_how_to_make_one_and_goes_on(tmp_path: Path) -> None:
    operator = Operator(tmp_path / "fleet")
    (text,) = operator.look(2)
    assert "overlaid fleet repo init" in text
    operator.repo.init()
    operator.now += 2 * DAY_S
    assert operator.look() == ["signed a new timestamp"]
