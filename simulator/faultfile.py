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
MAX_BYTES = 1 << 20


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
        self._seen: tuple[int, int, int] | None = None

    def changed(self) -> bool:
        """True when the file is another one than the one that was read last."""
        return self._stamp() != self._seen

    def read(self) -> tuple[int, Timeline]:
        """The seed and the faults; none without a file. ConfigError for a file that is none of ours."""
        self._seen = self._stamp()
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
            if len(data) > MAX_BYTES:
                raise ConfigError(f"it is larger than {MAX_BYTES >> 20} MiB")
            found = _File.model_validate_json(data)
            check_faults([item.fault for item in found.happenings], self._profile)
        except FileNotFoundError:
            return 0, Timeline(self._profile)
        except (OSError, ConfigError, ValidationError) as error:
            problem = explain_validation(error) if isinstance(error, ValidationError) else error
            raise ConfigError(f"{self._path}: {problem}; remove it to clear the injected faults") from error
        happenings = [
            Happening(item.start, FOREVER if item.end is None else item.end, item.fault)
            for item in found.happenings
        ]
        return found.seed, Timeline(self._profile, happenings)

    def write(self, seed: int, happenings: Sequence[Happening]) -> None:
        """Replace what is injected. ConfigError: too many, naming what the board has not, or not writable."""
        if len(happenings) > MAX_FAULTS:
            raise ConfigError(
                f"{len(happenings)} faults are more than {MAX_FAULTS}; clear them: overlaid sim clear"
            )
        check_faults([happening.fault for happening in happenings], self._profile)
        items = [
            _Happening(start=h.start, end=None if h.end == FOREVER else h.end, fault=h.fault)
            for h in happenings
        ]
        data = _File(seed=seed, happenings=tuple(items)).model_dump_json().encode()
        try:
            self._replace(data)
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be written: {error.strerror}") from error

    def _replace(self, data: bytes) -> None:
        descriptor, name = tempfile.mkstemp(".tmp", NAME, self._path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, 0o644)  # the node's user reads what root injects
                file.write(data)
            Path(name).replace(self._path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            status = os.stat(self._path)  # noqa: PTH116 (hot: at every run)
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size
