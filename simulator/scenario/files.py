"""``scenario.toml``: what happens to a simulated board, read and checked before anything runs."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from agent.errors import ConfigError, RuntimeUnavailable
from agent.paths import exists, read_toml
from agent.types import Budget
from agent.validation import explain_validation, from_table
from simulator.faults import Fault, check_faults
from simulator.profile import Part, load_profile

EXAMPLES = Path(__file__).parent.parent / "scenarios"
MAX_DURATION_S = 7 * 86_400.0
MAX_REQUESTS = 20_000_000  # some minutes of one core

Moment = Annotated[float, Field(ge=0, le=MAX_DURATION_S)]
Watts = Annotated[float, Field(gt=0, le=10_000)]


class Load(Part):
    """A model and its requests. ``folder``: with a model.toml, relative to the scenario's file.

    ``rate``: (time in s, requests a second from then on); without it the budget's rate.
    """

    folder: str = Field(min_length=1)
    budget: Budget
    arrivals: Literal["poisson", "regular"] = "poisson"
    rate: tuple[tuple[Moment, Annotated[float, Field(ge=0, le=100_000)]], ...] | None = Field(
        None, min_length=1
    )

    @model_validator(mode="after")
    def _times_rise(self) -> Load:
        times = [time for time, _ in self.rates]
        if times[0] != 0 or any(late <= early for early, late in itertools.pairwise(times)):
            raise ValueError("the times of rate must rise, from 0 on: rate = [[0, 50], [300, 100]]")
        return self

    @property
    def rates(self) -> tuple[tuple[float, float], ...]:
        return self.rate or ((0.0, self.budget.rate_hz),)

    def requests(self, duration_s: float) -> float:
        """How many are expected."""
        ends = [*(time for time, _ in self.rates[1:]), math.inf]
        return sum(
            rate * max(0.0, min(end, duration_s) - start)
            for (start, rate), end in zip(self.rates, ends, strict=True)
        )


class Cap(Part):
    """The operator sets the node's power cap; without ``watts`` there is none from then on."""

    at_s: Moment
    watts: Watts | None = None


class Scenario(Part):
    """One run of a board. ``power_cap_w``: what the node is told at the start."""

    board: str
    seed: int = Field(0, ge=0, lt=1 << 63)
    duration_s: float = Field(gt=0, le=MAX_DURATION_S)
    power_cap_w: Watts | None = None
    models: tuple[Load, ...] = Field(min_length=1, max_length=16)
    caps: tuple[Cap, ...] = Field((), max_length=1000)
    faults: tuple[Fault, ...] = Field((), max_length=1000)

    @model_validator(mode="after")
    def _fits_its_duration(self) -> Scenario:
        times = [cap.at_s for cap in self.caps]
        if times != sorted(set(times)):
            raise ValueError("the times of caps must rise")
        for what, moments in (
            ("caps", times),
            ("faults", [fault.at_s for fault in self.faults]),
            ("rate", [time for load in self.models for time, _ in load.rates]),
        ):
            if any(moment >= self.duration_s for moment in moments):
                late = max(moments)
                raise ValueError(
                    f"{what}: {late:g} s is not before the end, duration_s = {self.duration_s:g}"
                )
        requests = sum(load.requests(self.duration_s) for load in self.models)
        if requests > MAX_REQUESTS:
            raise ValueError(
                f"these rates and duration_s give {requests:.3g} requests, more than {MAX_REQUESTS}: lower one of them"
            )
        return self


def read_scenario(path: Path) -> Scenario:
    """A scenario whose board and fault targets exist. ConfigError: the file, the key and what is allowed."""
    if not exists(path):
        raise ConfigError(f"there is no scenario {path}; examples lie in {EXAMPLES}")
    try:
        scenario = from_table(Scenario, read_toml(path))
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain_validation(error)}") from error
    try:
        check_faults(scenario.faults, load_profile(scenario.board))
    except RuntimeUnavailable as error:
        raise ConfigError(f"{path}: board: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: faults: {error}") from error
    return scenario
