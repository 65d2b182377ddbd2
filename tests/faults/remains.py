"""What a node has on its disk: looked at from outside, changing nothing."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from pathlib import Path

from agent.package.manifest import parse_manifest
from tests.faults.daemon import Broken
from tests.faults.model import NAME


def journalled(state: Path) -> list[tuple[int, str, str, str | None]]:
    """Deployments as the disk has them, (id, version, state, phase), oldest first; Broken when damaged. Looks at
    a copy: reading the file itself would change it."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("state.db", "state.db-wal"):
            source = state / name
            if source.exists():
                (Path(folder) / name).write_bytes(source.read_bytes())
        database = sqlite3.connect(Path(folder) / "state.db")
        try:
            found = database.execute("PRAGMA integrity_check").fetchone()[0]
            if found != "ok":
                raise Broken(f"state.db: {found}")
            query = "SELECT id, version, state, phase FROM deployments ORDER BY id"
            return database.execute(query).fetchall()
        finally:
            database.close()


def leftovers(state: Path, runtime: Path) -> list[str]:
    """What should not be in store and metadata after a success and its garbage collection."""
    store = state / "store"
    try:
        versions = json.loads((store / "models" / f"{NAME}.json").read_text())
    except (OSError, ValueError) as error:
        return [f"models/{NAME}.json: {error}"]
    keep = {versions.get("current"), versions.get("previous")} - {None}
    found = [str(path.relative_to(state)) for part in (store, state / "repo") for path in part.rglob("*.tmp")]
    manifests = (path.stem for path in (store / "manifests").glob("*.json"))
    found += [f"manifest {digest[:12]}" for digest in manifests if digest not in keep]
    found += [f"block {path.name[:12]}" for path in (store / "blocks").glob("*/*")]
    needed = {sha for digest in keep for sha in _files(store, digest)}
    found += [f"file {path.name[:12]}" for path in (store / "files").iterdir() if path.name not in needed]
    found += [f"no file {sha[:12]}" for sha in needed if not (store / "files" / sha).exists()]
    sockets = {path.stem for path in (runtime / "models").glob("*.sock")}
    if sockets != {NAME}:
        found.append(f"sockets {sorted(sockets)}")
    return found


def _files(store: Path, digest: str) -> set[str]:
    manifest = parse_manifest((store / "manifests" / f"{digest}.json").read_bytes())
    return {file.sha256 for file in manifest.files.values()}
