"""What was measured of models is kept: it takes its time, and costs the node something."""

from __future__ import annotations

import json
import logging
import sqlite3
from typing import Protocol

from pydantic import TypeAdapter

from agent.errors import one_line
from agent.placement.profile import Profile
from agent.placement.profile.cache import Key, trouble_with
from agent.types import to_jsonable

MAX_ROWS = 512
SCHEMA = """
CREATE TABLE IF NOT EXISTS profiles (key TEXT PRIMARY KEY, model TEXT NOT NULL, profile TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS profiles_by_model ON profiles (model);
"""
_PROFILE = TypeAdapter(Profile)
log = logging.getLogger("deploy")


class Run(Protocol):
    """Does one SQL statement; raises StoreError."""

    def __call__(self, sql: str, *values: object) -> sqlite3.Cursor: ...


class Profiles:
    """A table of the journal. Raises StoreError when the disk refuses."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def keep(self, model: str, key: Key, profile: Profile) -> None:
        """In place of what was kept under the key; of MAX_ROWS the oldest goes."""
        text = json.dumps(to_jsonable(profile))
        self._run("INSERT OR REPLACE INTO profiles VALUES (?, ?, ?)", key.text(), model, text)
        self._run(
            "DELETE FROM profiles WHERE rowid <= (SELECT rowid FROM profiles ORDER BY rowid DESC LIMIT 1 OFFSET ?)",
            MAX_ROWS,
        )

    def of(self, model: str) -> list[tuple[Key, Profile]]:
        """Everything that is kept of a model and can be believed, oldest first."""
        rows = self._run("SELECT key, profile FROM profiles WHERE model = ? ORDER BY rowid", model).fetchall()
        return [found for row in rows if (found := _believable(*row)) is not None]


def _believable(key_text: str, text: str) -> tuple[Key, Profile] | None:
    """None for a row that is damaged or nonsense: it can be measured again."""
    try:
        key, profile = Key.parse(key_text), _PROFILE.validate_json(text)
    except (ValueError, TypeError) as error:  # pydantic's are ValueErrors
        log.warning("a profile is not used: %s", one_line(error))
        return None
    if trouble := trouble_with(profile, key.candidate):
        log.warning("the profile of %s is not used: %s", key.candidate, trouble)
        return None
    return key, profile
