"""The TUF repository: which packages nodes may install, and who signs for that (The Update Framework 1.0).

``store`` (its files, and how they change at once), ``signers`` (keys at hand), ``state`` (what is published), ``edits``
(pure changes of what is signed offline), ``build`` (the files of the next publication), ``status``, ``repo`` (what
operators do), ``publish`` (a package folder). Only ``store`` may be imported where python-tuf must not be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.fleet.repo.repo import Repo

__all__ = ["Repo"]


def __getattr__(name: str) -> Any:
    # python-tuf takes a fifth of a second to import: not for those who only read files.
    if name == "Repo":
        from agent.fleet.repo.repo import Repo

        return Repo
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
