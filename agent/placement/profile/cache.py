"""Profiles that were taken before: what they are kept under, and which of them still count. Pure."""

from __future__ import annotations

import json
import math
from dataclasses import astuple, dataclass

from agent.placement.profile.values import OpenLoop, Profile
from agent.types import BoardInfo, Candidate, Measurement

TAGS = frozenset({"measured", "estimated", "simulated", "missing"})
FASTER = 1.05  # rates above the open loop's by more are another load,
SLOWER = 0.25  # and below it by more leave other gaps
AGAIN_S = 600.0  # until energy that is missing is measured again
FEW_RUNS = 5  # that say little, and nothing when not even the meters told
MAX_FIGURE = 1e9  # of ms, MB, J and W: nothing sensible is larger


@dataclass(frozen=True, slots=True)
class Key:
    """What a profile depends on. ``runtime``: the backend with its version; ``board``: with the device's name and
    what it is known to do; ``threads``: of a run on a CPU."""

    digest: str
    variant: str
    backend: str
    device: str
    runtime: str
    board: str
    power_mode: str
    threads: int

    @classmethod
    def of(cls, digest: str, candidate: Candidate, board: BoardInfo, threads: int) -> Key:
        """KeyError for a candidate that the board does not have."""
        device = next((each for each in board.devices if each.id == candidate.device), None)
        backends = device.backends if device else ()
        backend = next((each for each in backends if each.name == candidate.backend), None)
        if device is None or backend is None:
            raise KeyError(str(candidate))
        return cls(
            digest,
            candidate.variant,
            candidate.backend,
            candidate.device,
            f"{backend.name} {backend.version}",
            " ".join((f"{board.name}: {device.name}", device.note)).strip(),
            board.power_mode,
            threads,
        )

    @property
    def candidate(self) -> Candidate:
        return Candidate(self.variant, self.backend, self.device)

    def text(self) -> str:
        """One line that no other key has."""
        return json.dumps(astuple(self))

    @classmethod
    def parse(cls, text: str) -> Key:
        """Inverse of ``text``; ValueError for anything else."""
        try:
            fields = json.loads(text)
        except RecursionError as error:
            raise ValueError("not a profile's key") from error
        if not (isinstance(fields, list) and [type(field) for field in fields] == [str] * 7 + [int]):
            raise ValueError("not a profile's key")
        return cls(*fields)


def trouble_with(profile: Profile, candidate: Candidate) -> str:
    """Why a profile that was kept cannot be believed; empty when it can."""
    m = profile.closed
    if m.candidate != candidate:
        return f"it is that of {m.candidate}"
    if m.energy not in TAGS:
        return f"energy tag {m.energy!r}"
    if m.energy != "missing" and (m.joules is None or m.holding_w is None):
        return "its energy has no joules"
    if m.runs < 1 or not 0 <= m.confidence <= 1 or not 0 < m.p50_ms <= m.p99_ms:
        return f"p50 {m.p50_ms} ms, p99 {m.p99_ms} ms of {m.runs} runs at confidence {m.confidence}"
    return next((f"{name} is {value}" for name, value in _figures(profile) if not _sensible(value)), "")


def _figures(profile: Profile) -> list[tuple[str, float]]:
    m, opened = profile.closed, profile.open
    named: list[tuple[str, float | None]] = [
        ("mean_ms", m.mean_ms), ("p99_ms", m.p99_ms), ("load_s", m.load_s), ("memory_mb", m.memory_mb),
        ("joules", m.joules), ("joules_sigma", m.joules_sigma), ("holding_w", m.holding_w), ("rest_w", m.rest_w),
        ("load_j", m.load_j), ("measured", 0.0 if math.isfinite(m.measured) else m.measured),
    ]  # fmt: skip
    named += [(f"part {kind}", ms) for kind, ms in m.parts]
    if opened is not None:
        named += [("open p99_ms", opened.p99_ms), ("open rate_hz", opened.rate_hz)]
    return [(name, value) for name, value in named if value is not None]


def _sensible(value: float) -> bool:
    return 0 <= value <= MAX_FIGURE  # NaN is not


def lacks_energy(m: Measurement, has_meters: bool, now: float) -> bool:
    """It may be measured now, in Unix seconds; not at once again, since the meters may have told then, but too little,
    and each try disturbs what serves."""
    return has_meters and m.energy == "missing" and not 0 <= now - m.measured < AGAIN_S


def worth_keeping(m: Measurement, has_meters: bool) -> bool:
    """Whether a profile that was just taken is better than none."""
    return m.runs >= FEW_RUNS or m.energy != "missing" or not has_meters


def opens_anew(opened: OpenLoop | None, rate_hz: float) -> bool:
    """Whether the open loop says nothing about this rate."""
    if opened is None:
        return True
    return not SLOWER * opened.rate_hz <= rate_hz <= FASTER * opened.rate_hz
