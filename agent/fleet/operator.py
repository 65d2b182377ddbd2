"""The operator's truth: one SQLite file (WAL, synchronous FULL) beside the repository; nothing else touches it.

Several processes may use it at once (``fleet serve`` and commands): every change is one immediate transaction.
Revisions grow over all targets of the site, so that a node that sees both its own and its groups' desired states can
say with one number how far it is.
"""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.errors import StoreError
from agent.fleet import arrivals
from agent.fleet.arrivals import Arrival, Stream
from agent.fleet.desired import EMPTY, VALIDITY_S, Content, content_of, earlier, issue, renewal_due
from agent.fleet.views import Heard, NodeView
from agent.link.messages import DeploymentEnd, Desired, Result, TelemetryBatch, parse
from agent.link.topics import Target
from agent.types import DesiredState

SCHEMA_VERSION = 2
MAX_AHEAD = 10_000  # revisions that a node may have seen and this file has not
_SCHEMA = """
CREATE TABLE IF NOT EXISTS desired (revision INTEGER PRIMARY KEY, target TEXT NOT NULL, payload TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS desired_by_target ON desired (target, revision);
CREATE TABLE IF NOT EXISTS sequences (key_id TEXT PRIMARY KEY, last INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS nodes (node TEXT NOT NULL, kind TEXT NOT NULL, time REAL NOT NULL, payload TEXT NOT NULL,
  PRIMARY KEY (node, kind));
CREATE TABLE IF NOT EXISTS identity (id INTEGER PRIMARY KEY CHECK (id = 1), name TEXT NOT NULL);
"""


class Operator:
    """Opens or creates the database. Used from one thread. Every method raises StoreError when the disk refuses."""

    def __init__(
        self, path: Path, *, clock: Callable[[], float] = time.time, validity_s: float = VALIDITY_S
    ) -> None:
        self._path, self._clock, self._validity_s = path, clock, validity_s
        with self._named():
            self._db = sqlite3.connect(path, isolation_level=None, timeout=10.0)
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise

    def _prepare(self) -> None:
        version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{self._path} was written by a newer overlaid: schema {version}, this one reads up to {SCHEMA_VERSION}"
                "; install that version again: what the operator asked for is nowhere else"
            )
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        if version < SCHEMA_VERSION:
            self._db.executescript(_SCHEMA + arrivals.SCHEMA)
            if version == 1:  # heartbeats of then had no series; the next one comes within a minute
                self._db.execute("DELETE FROM nodes WHERE kind = 'telemetry'")
            self._db.execute("INSERT OR IGNORE INTO identity VALUES (1, ?)", (uuid.uuid4().hex[:8],))
            self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(
                f"{self._path}: {error}; check the disk and that this user may write there"
            ) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._named():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Operator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def identity(self) -> str:
        """A random name of this home (8 characters), part of the MQTT client id of ``fleet serve``."""
        with self._named():
            return str(self._db.execute("SELECT name FROM identity").fetchone()[0])

    # -- desired states ------------------------------------------------------------------------------------------

    def revise(self, target: Target, edit: Callable[[Content], Content]) -> DesiredState:
        """Store the edited content as a new, highest revision and return it; what ``edit`` raises changes nothing."""
        with self._transaction():
            latest = self.latest(target)
            return self._append(target, edit(content_of(latest) if latest else EMPTY))

    def roll_back(self, target: Target) -> DesiredState:
        """A new revision with the newest content that differs from the present one. UsageError when there is none."""
        with self._transaction():
            return self._append(target, earlier(map(content_of, self.history(target))))

    def renew(self, target: Target) -> DesiredState | None:
        """A new revision with the same content where the present one is in the last third of its period, else None."""
        with self._transaction():
            latest = self.latest(target)
            if latest is None or not renewal_due(latest, self._clock()):
                return None
            return self._append(target, content_of(latest))

    def adopt(self, target: Target, state: DesiredState) -> bool:
        """Take over a state that our key signed but that is newer than this file (restored or lost); False if not."""
        with self._transaction():
            latest = self.latest(target)
            if latest is not None and state.revision <= latest.revision:
                return False
            if self._db.execute("SELECT 1 FROM desired WHERE revision = ?", (state.revision,)).fetchone():
                self._append(target, content_of(state))
            else:
                self._insert(target, state)
            return True

    def _append(self, target: Target, content: Content) -> DesiredState:
        last = int(self._db.execute("SELECT coalesce(max(revision), 0) FROM desired").fetchone()[0])
        # Nodes may have seen newer ones than a file that was restored knows of; a lie cannot use up the numbers.
        seen = (view.reported.revision_seen for view in self.views().values() if view.reported)
        revision = max(last, min(max(seen, default=0), last + MAX_AHEAD)) + 1
        return self._insert(target, issue(content, revision, self._clock(), self._validity_s))

    def _insert(self, target: Target, state: DesiredState) -> DesiredState:
        payload = Desired.of(target, state).encode().decode()
        self._db.execute("INSERT INTO desired VALUES (?, ?, ?)", (state.revision, str(target), payload))
        return state

    def latest(self, target: Target) -> DesiredState | None:
        return next(self._states(target, 1), None)

    def history(self, target: Target) -> Iterator[DesiredState]:
        """Every revision of the target, newest first."""
        return self._states(target, -1)

    def _states(self, target: Target, limit: int) -> Iterator[DesiredState]:
        """The newest ``limit`` revisions, all of them when it is negative."""
        with self._named():
            # All rows at once: a SELECT that nobody reads to its end keeps its view of the file, and its lock.
            rows = self._db.execute(
                "SELECT payload FROM desired WHERE target = ? ORDER BY revision DESC LIMIT ?",
                (str(target), limit),
            ).fetchall()
        return (parse(Desired, payload.encode()).state() for (payload,) in rows)

    def targets(self) -> list[Target]:
        """Every node and group that ever had a desired state."""
        with self._named():
            rows = self._db.execute("SELECT DISTINCT target FROM desired ORDER BY target").fetchall()
        return [Target.parse(row[0]) for row in rows]

    def wanted_by_several(self, digest: str) -> bool:
        """True when the package is in the newest desired state of a group, or of two nodes."""
        nodes = 0
        for target in self.targets():
            state = self.latest(target)
            if state is not None and any(model.digest == digest for model in state.models):
                nodes += 1
                if target.group or nodes > 1:
                    return True
        return False

    # -- commands ------------------------------------------------------------------------------------------------

    def next_sequence(self, key_id: str) -> int:
        """The next command sequence of a signing key; on disk before it is returned.

        It is at least the Unix time, so that nodes accept the commands of a home whose database was lost.
        """
        with self._transaction() as db:
            row = db.execute("SELECT last FROM sequences WHERE key_id = ?", (key_id,)).fetchone()
            sequence = max(int(self._clock()), row[0] + 1 if row else 1)
            db.execute("INSERT OR REPLACE INTO sequences VALUES (?, ?)", (key_id, sequence))
            return sequence

    # -- nodes ---------------------------------------------------------------------------------------------------

    def record(self, heard: Iterable[Heard]) -> list[tuple[Heard, Arrival]]:
        """Store what nodes said, all in one transaction; returns results and batches with what was new of them.

        A retained copy of what is known keeps its older time.
        """
        arrived = []
        with self._transaction() as db:
            for item in heard:
                if isinstance(item.message, (Result, TelemetryBatch)):
                    arrived.append((item, arrivals.take(db, item)))
                if isinstance(item.message, Result):
                    continue
                db.execute(
                    "INSERT INTO nodes VALUES (?, ?, ?, ?) ON CONFLICT (node, kind) DO UPDATE SET"
                    " time = CASE WHEN ? AND payload = excluded.payload THEN time ELSE excluded.time END,"
                    " payload = excluded.payload",
                    (item.node, item.kind, item.time, item.text(), item.retained),
                )
        return arrived

    def views(self) -> dict[str, NodeView]:
        """Every node that was ever heard, by name, as it was last heard."""
        with self._named():
            rows = self._db.execute("SELECT node, kind, time, payload FROM nodes ORDER BY node").fetchall()
        views: dict[str, NodeView] = {}
        for node, kind, when, payload in rows:
            views[node] = views.get(node, NodeView(node)).after(Heard.stored(node, kind, when, payload))
        return views

    def results(self, node: str, limit: int = 10) -> list[tuple[float, Result]]:
        """The newest results of a node's commands, newest first, with when they came (Unix seconds)."""
        with self._named():
            rows = self._db.execute(
                "SELECT time, payload FROM results WHERE node = ? ORDER BY row DESC LIMIT ?", (node, limit)
            ).fetchall()
        return [(when, parse(Result, payload.encode())) for when, payload in rows]

    def ends(self, node: str, limit: int = 10) -> list[DeploymentEnd]:
        """How the newest deployments on a node ended, newest first."""
        with self._named():
            return arrivals.ends(self._db, node, limit)

    def streams(self, node: str) -> list[Stream]:
        """How far the streams of a node have come, and what is missing of them."""
        with self._named():
            return arrivals.streams(self._db, node)
