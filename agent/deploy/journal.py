"""What must survive ``kill -9``: accepted desired states, command sequences, deployments, placements, the clock floor;
and what was measured, which takes its time.

One SQLite file (``state.db``, WAL, synchronous FULL): every row is on disk before anything acts on it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from agent.deploy import profiles, standing
from agent.errors import Replayed, StoreError
from agent.hours import PLAUSIBLE_TIME
from agent.types import Budget, DesiredModel, DesiredState, Phase, Placement, State, to_jsonable
from agent.validation import explain_validation

SCHEMA_VERSION = 4
HISTORY_ROWS = 1000
LOOK_S = 2.0  # between looks whether a disk has healed
MAX_CLOCK_LEAD_S = 300.0  # less than the life of a command, or none would be heard for the rest of the lead
_SCHEMA = """
CREATE TABLE IF NOT EXISTS desired (target TEXT PRIMARY KEY, revision INTEGER NOT NULL, state TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sequences (key_id TEXT NOT NULL, target TEXT NOT NULL, sequence INTEGER NOT NULL,
  PRIMARY KEY (key_id, target));
CREATE TABLE IF NOT EXISTS deployments (id INTEGER PRIMARY KEY, origin TEXT NOT NULL, target TEXT NOT NULL,
  revision INTEGER NOT NULL, model TEXT NOT NULL, version TEXT NOT NULL, digest TEXT NOT NULL, budget TEXT NOT NULL,
  folder TEXT, state TEXT NOT NULL, phase TEXT, attempts INTEGER NOT NULL DEFAULT 0, why TEXT NOT NULL DEFAULT '',
  updated REAL NOT NULL, instances INTEGER NOT NULL DEFAULT 1);
CREATE INDEX IF NOT EXISTS deployments_by_model ON deployments (model, id);
CREATE TABLE IF NOT EXISTS placements (model TEXT NOT NULL, digest TEXT NOT NULL, origin TEXT NOT NULL,
  placement TEXT NOT NULL, PRIMARY KEY (model, digest));
CREATE TABLE IF NOT EXISTS clock (id INTEGER PRIMARY KEY CHECK (id = 1), floor REAL NOT NULL);
"""
# From each version to the next, before what is missing is created.
_UPGRADES = {1: "ALTER TABLE deployments ADD COLUMN instances INTEGER NOT NULL DEFAULT 1"}
T = TypeVar("T")
_BUDGET = TypeAdapter(Budget)
_DESIRED = TypeAdapter(DesiredState)
_PLACEMENT = TypeAdapter(Placement)


@dataclass(frozen=True, slots=True)
class Deployment:
    """One journalled attempt to bring a model into service. ``folder``: a local package, None for the wire."""

    id: int
    origin: str
    target: str
    revision: int
    model: DesiredModel
    state: State
    phase: Phase | None = None
    attempts: int = 0
    why: str = ""
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """A placement with who asked for it: ``fleet`` or ``local``."""

    origin: str
    placement: Placement


class Journal:
    """The only reader and writer of its tables; used from one thread. Raises StoreError when the disk refuses.

    ``problem``: why nothing can be written, since the start. ``profiles``: what was measured; ``standing``: which
    versions stayed up.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._clock, self._path = clock, path
        self.problem = ""
        self._looked = 0.0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = self._open()
        except StoreError as error:
            self._db = self._read_only(error)
        except OSError as error:
            raise StoreError(f"{path}: {error}; check the disk and that this user may write there") from error
        self.profiles = profiles.Profiles(self._run)
        self.standing = standing.Standings(self._run)

    def _open(self) -> sqlite3.Connection:
        path, db = self._path, None
        try:
            db = sqlite3.connect(path, isolation_level=None, timeout=5.0)
            self._prepare(db)
        except BaseException as error:
            if db is not None:
                db.close()
            if isinstance(error, sqlite3.Error):
                raise StoreError(
                    f"{path}: {error}; check the disk and that this user may write there"
                ) from error
            raise
        return db

    def _read_only(self, refused: StoreError) -> sqlite3.Connection:
        """What a disk holds that cannot be written, so that models serve after a start on it. Every write is refused,
        until ``_run`` finds the disk healed. Raises ``refused`` where that is not it."""
        if not isinstance(refused.__cause__, sqlite3.OperationalError):
            raise refused
        db = sqlite3.connect(":memory:", isolation_level=None)
        try:
            with tempfile.TemporaryDirectory() as folder:
                for suffix in ("", "-wal"):  # read in place, SQLite would have to write beside it
                    with contextlib.suppress(FileNotFoundError):
                        shutil.copyfile(f"{self._path}{suffix}", f"{folder}/state.db{suffix}")
                with contextlib.closing(sqlite3.connect(f"{folder}/state.db")) as copy:
                    copy.backup(db)
            if not db.execute("PRAGMA user_version").fetchone()[0]:
                raise refused  # there is nothing
            self._prepare(db)
        except (OSError, sqlite3.Error):
            db.close()
            raise refused from None
        except BaseException:
            db.close()
            raise
        db.execute("PRAGMA query_only=ON")
        self.problem, self._looked = (
            f"{refused.name}: {refused}; nothing new is begun until then",
            time.monotonic(),
        )
        return db

    def _heal(self) -> bool:
        """True when the file can be written again."""
        if time.monotonic() - self._looked < LOOK_S:
            return False
        self._looked = time.monotonic()
        try:
            db = self._open()
        except StoreError:
            return False
        self._db.close()
        self._db, self.problem = db, ""
        return True

    def _prepare(self, db: sqlite3.Connection) -> None:
        # No other process reads this file; exclusively locked, the write-ahead log needs no index file on the disk.
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        if version > SCHEMA_VERSION:
            aside = f"{self._path.parent}.schema-{version}"
            raise StoreError(
                f"{self._path} was written by a newer overlaid: schema {version}, this one reads up to {SCHEMA_VERSION}"
                f"; install that version again, or begin without its models: mv {self._path.parent} {aside}"
            )
        db.execute("PRAGMA synchronous=FULL")
        if (
            version < SCHEMA_VERSION
        ):  # opening must not write: a node whose disk is full still serves after a reboot
            db.execute("PRAGMA journal_mode=WAL")
            steps = [_UPGRADES.get(old, "") for old in range(version, SCHEMA_VERSION)] if version else []
            tables = f"{_SCHEMA} {profiles.SCHEMA} {standing.SCHEMA}"
            script = f"BEGIN; {'; '.join(steps)}; {tables} PRAGMA user_version={SCHEMA_VERSION}; COMMIT"
            db.executescript(script)

    def close(self) -> None:
        self._db.close()

    def _run(self, sql: str, *values: Any) -> sqlite3.Cursor:
        try:
            return self._db.execute(sql, values)
        except sqlite3.Error as error:
            if self.problem and self._heal():
                return self._run(sql, *values)
            raise StoreError(f"state.db: {error}; check the disk and its permissions") from error

    # -- time ----------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Unix seconds, never before the newest time that a trusted message proved (boards without a clock)."""
        row = self._run("SELECT floor FROM clock").fetchone()
        return max(self._clock(), row[0] if row else 0.0)

    def raise_clock_floor(self, proven: float) -> None:
        """A trusted message was issued at ``proven``. A clock that may be right is not overruled by more than minutes:
        an operator's clock that is years ahead must not make everything after it look expired."""
        here = self._clock()
        if here >= PLAUSIBLE_TIME:
            proven = min(proven, here + MAX_CLOCK_LEAD_S)
        self._run(
            "INSERT INTO clock (id, floor) VALUES (1, ?)"
            " ON CONFLICT (id) DO UPDATE SET floor = max(floor, excluded.floor)",
            proven,
        )

    # -- messages ------------------------------------------------------------------------------------------------

    def accept_desired(self, target: str, state: DesiredState) -> bool:
        """Persist a newer revision; False when it is the one already accepted (retained messages come again).

        Raises Replayed for an older revision or for other content under the same number.
        """
        text = json.dumps(to_jsonable(state), sort_keys=True)
        row = self._run("SELECT revision, state FROM desired WHERE target = ?", target).fetchone()
        if row is not None:
            # Not by their texts: one that an older version wrote may lack keys that have a default.
            if state.revision == row[0] and state == _stored(_DESIRED, row[1]):
                return False
            if state.revision <= row[0]:
                raise Replayed(
                    f"desired revision {state.revision} of {target} is not newer than {row[0]}: refused"
                )
        self.raise_clock_floor(
            state.issued
        )  # first: should the disk refuse one of the two, all is done again
        self._run("INSERT OR REPLACE INTO desired VALUES (?, ?, ?)", target, state.revision, text)
        return True

    def desired(self) -> dict[str, DesiredState]:
        """Accepted desired states by target."""
        rows = self._run("SELECT target, state FROM desired").fetchall()
        return {target: _stored(_DESIRED, state) for target, state in rows}

    def accept_command(self, key_id: str, target: str, sequence: int, issued: float) -> None:
        """Persist the sequence before the command is carried out; Replayed unless it is newer than the last."""
        row = self._run(
            "SELECT sequence FROM sequences WHERE key_id = ? AND target = ?", key_id, target
        ).fetchone()
        if row is not None and sequence <= row[0]:
            raise Replayed(f"command sequence {sequence} is not newer than {row[0]}: refused")
        self.raise_clock_floor(issued)
        self._run("INSERT OR REPLACE INTO sequences VALUES (?, ?, ?)", key_id, target, sequence)

    # -- deployments ---------------------------------------------------------------------------------------------

    def queue(
        self, origin: str, target: str, revision: int, model: DesiredModel, folder: Path | None = None
    ) -> Deployment:
        """Journal a deployment as QUEUED."""
        cursor = self._run(
            "INSERT INTO deployments (origin, target, revision, model, version, digest, budget, folder, state, updated,"
            " instances) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            origin,
            target,
            revision,
            model.name,
            model.version,
            model.digest,
            json.dumps(to_jsonable(model.budget)),
            None if folder is None else str(folder),
            State.QUEUED.value,
            self._clock(),
            model.instances,
        )
        self._run(
            "DELETE FROM deployments WHERE id <= ? AND state NOT IN ('QUEUED', 'IN_PROGRESS')"
            " AND id NOT IN (SELECT max(id) FROM deployments GROUP BY model)",
            int(cursor.lastrowid or 0) - HISTORY_ROWS,
        )
        return Deployment(
            int(cursor.lastrowid or 0), origin, target, revision, model, State.QUEUED, folder=folder
        )

    def begin(self, deployment: Deployment) -> int:
        """Count one more attempt and return how many there were, this one included."""
        self._run(
            "UPDATE deployments SET attempts = attempts + 1, state = ?, updated = ? WHERE id = ?",
            State.IN_PROGRESS.value,
            self._clock(),
            deployment.id,
        )
        return int(self._run("SELECT attempts FROM deployments WHERE id = ?", deployment.id).fetchone()[0])

    def forgive(self, deployment: Deployment) -> None:
        """The attempt does not count: an orderly stop interrupted it, or it takes long by its nature."""
        self._run("UPDATE deployments SET attempts = max(attempts - 1, 0) WHERE id = ?", deployment.id)

    def enter(self, deployment: Deployment, phase: Phase, why: str = "") -> None:
        """Journal a phase before it acts; ``why``: the error's name and text that ROLLING_BACK is entered for."""
        self._run(
            "UPDATE deployments SET phase = ?, why = ?, updated = ? WHERE id = ?",
            phase.value,
            why,
            self._clock(),
            deployment.id,
        )

    def finish(self, deployment: Deployment, state: State, why: str) -> None:
        """Journal the final state."""
        assert state.final
        self._run(
            "UPDATE deployments SET state = ?, why = ?, updated = ? WHERE id = ?",
            state.value,
            why,
            self._clock(),
            deployment.id,
        )

    def unfinished(self) -> list[Deployment]:
        """Deployments that a stop interrupted, oldest first."""
        return self._deployments("state IN ('QUEUED', 'IN_PROGRESS') ORDER BY id")

    def latest(self) -> dict[str, Deployment]:
        """The newest deployment of each model."""
        found = self._deployments("id IN (SELECT max(id) FROM deployments GROUP BY model)")
        return {deployment.model.name: deployment for deployment in found}

    def ended(self) -> dict[int, float]:
        """When each deployment that is over ended (Unix seconds), by id, as far as the history goes."""
        rows = self._run("SELECT id, updated FROM deployments WHERE state NOT IN ('QUEUED', 'IN_PROGRESS')")
        return dict(rows.fetchall())

    def find(self, ids: Collection[int]) -> list[Deployment]:
        """Deployments by their ids, oldest first."""
        return self._deployments(f"id IN ({', '.join(str(int(one)) for one in ids)}) ORDER BY id")

    def _deployments(self, where: str) -> list[Deployment]:
        rows = self._run(
            "SELECT id, origin, target, revision, model, version, digest, budget, state, phase, attempts, why, folder,"
            " instances"
            f" FROM deployments WHERE {where}"
        ).fetchall()
        return [
            Deployment(
                row[0],
                row[1],
                row[2],
                row[3],
                DesiredModel(row[4], row[5], row[6], _stored(_BUDGET, row[7]), row[13]),
                State(row[8]),
                Phase(row[9]) if row[9] else None,
                row[10],
                row[11],
                Path(row[12]) if row[12] else None,
            )
            for row in rows
        ]

    # -- placements ----------------------------------------------------------------------------------------------

    def save_placement(self, origin: str, placement: Placement) -> None:
        """Persist what runs where and why, before the route flips to it."""
        self._run(
            "INSERT OR REPLACE INTO placements VALUES (?, ?, ?, ?)",
            placement.model,
            placement.digest,
            origin,
            json.dumps(to_jsonable(placement)),
        )

    def placement(self, model: str, digest: str) -> Placed | None:
        row = self._run(
            "SELECT origin, placement FROM placements WHERE model = ? AND digest = ?", model, digest
        ).fetchone()
        return Placed(row[0], _stored(_PLACEMENT, row[1])) if row else None

    def drop_placements(self, model: str, keep: set[str]) -> None:
        """Forget the placements of a model's digests that are no longer installed."""
        for (digest,) in self._run("SELECT digest FROM placements WHERE model = ?", model).fetchall():
            if digest not in keep:
                self._run("DELETE FROM placements WHERE model = ? AND digest = ?", model, digest)


def _stored(kind: TypeAdapter[T], text: str) -> T:
    """A value that this journal wrote; StoreError when it is not."""
    try:
        return kind.validate_json(text)
    except ValidationError as error:
        raise StoreError(
            f"state.db is damaged ({explain_validation(error)}); restore it, or remove it"
        ) from error
