"""What a deployment works with, given by the composition root."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from agent.deploy.journal import Journal
from agent.hal import PowerMeter
from agent.package.directory import PackageDir
from agent.package.store import Store
from agent.package.tuf.parent import MetadataSource, Verifier
from agent.serving.pool import Pool
from agent.telemetry.writer import Telemetry
from agent.types import BoardInfo, Delivery


class BlockSource(MetadataSource, Protocol):
    """Where packages come from: the wire or a local folder. ``turn`` is held while one deployment fetches."""

    @property
    def turn(self) -> AbstractAsyncContextManager[Any]: ...

    async def fetch(
        self, digest: str, wanted: Mapping[str, int], deliver: Callable[[str, bytes], None]
    ) -> None:
        """Deliver every wanted block (SHA-256 → size, 0 when unknown) of the package with this manifest digest.

        ``deliver`` checks the block, raising BlockError, and may be as slow as the disk: it is called on a thread, one
        call at a time. Waits through lost connections (the caller has the deadline). Raises BlockMissing.
        """
        ...

    def delivery(self, digest: str, /) -> Delivery:
        """What fetching this package cost so far, and what it waits for by the node's configuration."""
        ...

    def hurry(self, digest: str, /) -> None:
        """Let this package wait for nothing that is only configured."""
        ...


class FolderSource:
    """A package folder on this machine (``overlaid deploy PACKAGE``), with the metadata of when it was published."""

    keep_newer = True

    def __init__(self, folder: Path) -> None:
        self._package = PackageDir(folder)
        self.turn = asyncio.Lock()

    async def fetch(
        self, digest: str, wanted: Mapping[str, int], deliver: Callable[[str, bytes], None]
    ) -> None:
        for sha in wanted:
            await asyncio.to_thread(self._deliver, digest, sha, deliver)

    def _deliver(self, digest: str, sha: str, deliver: Callable[[str, bytes], None]) -> None:
        deliver(sha, self._package.manifest() if sha == digest else self._package.block(sha))

    async def metadata(self, name: str, limit: int) -> bytes | None:
        return await asyncio.to_thread(self._package.metadata, name, limit)

    def delivery(self, _digest: str) -> Delivery:
        return Delivery()

    def hurry(self, _digest: str) -> None:
        """It never waits."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Deadlines in seconds and limits of deployments (config sections deploy and serving). ``engines``: where runtimes
    keep what they built for this machine; None: nowhere."""

    board: str
    board_folder: Path
    threads: int
    max_body_bytes: int
    worker_memory_mb: int
    soak_s: float
    profile_s: float
    download_timeout_s: float
    phase_timeout_s: float
    engines: Path | None = None


@dataclass(frozen=True, slots=True)
class Resources:
    """The rooms that a deployment drives. ``power_mode``: of the machine, now; None where that does not change."""

    store: Store
    pool: Pool
    journal: Journal
    telemetry: Telemetry
    verifier: Verifier
    board: BoardInfo
    meters: Sequence[PowerMeter]
    settings: Settings
    power_mode: Callable[[], str] | None = None

    @property
    def board_now(self) -> BoardInfo:
        """``board`` in the power mode that the machine is in now; somebody may have set another since it was probed."""
        return self.board if self.power_mode is None else replace(self.board, power_mode=self.power_mode())
