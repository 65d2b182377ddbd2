"""An operator with a clock, and a node that follows the repository with python-tuf's own client."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import unquote

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater

from agent.fleet.home import Home
from agent.fleet.repo import Repo
from agent.fleet.repo.store import RepoFiles

START, DAY = 1_800_000_000.0, 86_400.0
TEN = tuple(f"{number}.0.0" for number in range(10))


def manifest(name: str = "net", version: str = "1.0.0") -> bytes:
    """To the repository a manifest is bytes."""
    return f"{name} {version}".encode()


class Operator:
    """``away``: where offline keys are while nobody needs them."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder / "fleet")
        self.now = START
        self.repo = Repo(self.home, lambda: self.now)
        self.files = RepoFiles(self.home.repo)
        self.away = folder / "safe"

    def begin(self) -> Operator:
        self.repo.init()
        return self

    def lock_away(self, *names: str) -> Path:
        """Take offline keys out of the home, all of them by default; where to."""
        self.away.mkdir(exist_ok=True)
        for path in list(self.home.offline.glob("*.pem")):
            if not names or path.stem in names:
                path.rename(self.away / path.name)
        return self.away

    def add(self, name: str = "net", version: str = "1.0.0", team: str | None = None) -> str:
        return self.repo.add(name, version, manifest(name, version), team)

    def names(self) -> set[str]:
        return {path.name for path in self.files.metadata.iterdir()}


class Node(FetcherInterface):
    """Trusts the root that it was given and keeps what it saw."""

    def __init__(self, operator: Operator, folder: Path) -> None:
        self._operator, self._folder = operator, folder
        self._root = (operator.home.repo / "root.json").read_bytes()
        folder.mkdir()

    def finds(self, name: str = "net", version: str = "1.0.0") -> bool:
        """Whether it may install that; raises what python-tuf's client raises."""
        updater = Updater(str(self._folder), "repo:/", fetcher=self, bootstrap=self._root)
        now = datetime.fromtimestamp(self._operator.now, timezone.utc)
        updater._trusted_set.reference_time = now
        target = updater.get_targetinfo(f"{name}/{version}.json")
        if target is not None:
            target.verify_length_and_hashes(manifest(name, version))
        return target is not None

    def _fetch(self, url: str) -> Iterator[bytes]:
        data = self._operator.files.read(unquote(url.rpartition("/")[2]))
        if data is None:
            raise DownloadHTTPError("no such file", 404)
        yield data

    @classmethod
    def resume(cls, operator: Operator, folder: Path, other: Node) -> Node:
        """Another node's past, in ``folder``."""
        node = cls.__new__(cls)
        node._operator, node._folder, node._root = operator, folder, other._root
        return node
