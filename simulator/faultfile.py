"""The faults of a running node's simulated board: ``board.faults.json`` in the board's folder, replaced as a whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from agent.errors import ConfigError
from agent.validation import explain_validation
from simulator.faults import FOREVER, Fault, Happening, Timeline, check_faults
from simulator.profile import BoardProfile, Part

NAME = "board.faults.json"
MAX_FAULTS = 1000


class _Happening(Part):
    start: float
    end: float | None
    fault: Fault


class _File(Part):
    seed: int = 0
    happenings: tuple[_Happening, ...] = Field((), max_length=MAX_FAULTS)


class FaultFile:
    """Reads what is injected, and injects."""

    def __init__(self, folder: Path, profile: BoardProfile) -> None:
        self._path = folder / NAME
        self._profile = profile
        self._seen: tuple[int, int] | None = None

    def changed(self) -> bool:
        """True when the file is another one than the one that was read last."""
        return self._stamp() != self._seen

    def read(self) -> tuple[int, Timeline]:
        """The seed and the faults; none without a file. ConfigError for a file that is none of ours."""
        self._seen = self._stamp()
        try:
            text = self._path.read_text()
        except FileNotFoundError:
            return 0, Timeline(self._profile)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self._path}: {error}; remove it to clear the injected faults") from error
        try:
            found = _File.model_validate_json(text)
        except ValidationError as error:
            problem = explain_validation(error)
            raise ConfigError(f"{self._path}: {problem}; remove it to clear the injected faults") from error
        check_faults([item.fault for item in found.happenings], self._profile)
        happenings = [
            Happening(item.start, FOREVER if item.end is None else item.end, item.fault)
            for item in found.happenings
        ]
        return found.seed, Timeline(self._profile, happenings)

    def write(self, seed: int, happenings: Sequence[Happening]) -> None:
        """Replace what is injected. ConfigError: too many, or they name what the board has not."""
        if len(happenings) > MAX_FAULTS:
            raise ConfigError(
                f"{len(happenings)} faults are more than {MAX_FAULTS}; clear them: overlaid sim clear"
            )
        check_faults([happening.fault for happening in happenings], self._profile)
        items = [
            _Happening(start=h.start, end=None if h.end == FOREVER else h.end, fault=h.fault)
            for h in happenings
        ]
        text = _File(seed=seed, happenings=tuple(items)).model_dump_json()
        descriptor, name = tempfile.mkstemp(".tmp", NAME, self._path.parent)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        Path(name).replace(self._path)

    def _stamp(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._path)  # noqa: PTH116 (hot: at every run)
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns
