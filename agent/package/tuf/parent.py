"""Whether a package may be installed, asked of a helper process. Imports no TUF library: the daemon stays small."""

from __future__ import annotations

from typing import Protocol

from agent.package.verify import Trusted


class MetadataSource(Protocol):
    """Where metadata of the repository comes from: the wire or a local folder."""

    @property
    def keep_newer(self) -> bool:
        """True where it may be older than what this node has seen, without that being an attack: a package folder."""
        ...

    async def metadata(self, name: str, limit: int) -> bytes | None:
        """The bytes of ``timestamp.json``, ``3.snapshot.json`` and the like (``types.check_metadata_name``); None when
        the repository has no such file. Of one that is larger than ``limit`` bytes any more than ``limit`` may come.
        Waits through lost connections: the caller has the deadline."""
        ...


class Verifier(Protocol):
    """Says what may be installed."""

    async def check(self, name: str, version: str, digest: str, source: MetadataSource) -> Trusted:
        """``digest``, when the repository's metadata names it as this version of the model.

        Raises RepositoryError (its subclasses say what is wrong) and StoreError, and what ``source`` raises.
        """
        ...
