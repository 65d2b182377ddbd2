"""What one policy did on one trace: counted, not judged. JSON-able values only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Recovery:
    """After an event: seconds until requests were in time again and the cap was kept; None when that did not come
    about before the next event. ``load_s``: the longest load that was begun meanwhile."""

    at_s: float
    event: str
    seconds: float | None
    load_s: float


@dataclass(frozen=True, slots=True)
class Result:
    """``answered`` requests include the ``late`` ones; ``failed``: answered with an error (no worker, too many wait, a
    device that is lost); ``shed``: turned away because the model was taken out of service. Each request is one of them,
    or unfinished at the end.

    ``joules``: of the board above what it draws without any model under the same conditions (runs, holding, loading);
    ``switch_j``: the loading, and checking what was loaded, in it. ``over_cap_s``: whole seconds in which the board
    would draw more than its cap if requests came evenly at their rate (what more of them draw by chance is no fault of
    a placement), ``excess_s``: the longest stretch of these. ``plan_s``: processor time of the policy's looks,
    ``longest_plan_s``: that of the longest.
    """

    family: str
    split: str
    seed: int
    board: str
    policy: str
    seconds: float
    requests: int
    answered: int
    late: int
    failed: int
    shed: int
    joules: float
    switch_j: float
    switches: int
    excess_s: float
    over_cap_s: float
    recoveries: tuple[Recovery, ...]
    looks: int
    plan_s: float
    longest_plan_s: float

    @property
    def violations(self) -> float:
        """The share of all requests that were answered late or with an error; what was shed is apart."""
        return (self.late + self.failed) / self.requests if self.requests else 0.0

    @property
    def shed_share(self) -> float:
        return self.shed / self.requests if self.requests else 0.0

    @property
    def in_time(self) -> int:
        return self.answered - self.late

    @property
    def joules_per_inference(self) -> float | None:
        """None without an answer."""
        return self.joules / self.answered if self.answered else None
