"""The models of a scenario: what a run of each variant takes, and when requests arrive."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from agent.errors import ConfigError, PackageError
from agent.fleet.programs import add_programs
from agent.fleet.source import ModelFolder
from agent.placement.planning.candidates import VariantInfo
from agent.types import Budget
from simulator.profile import load_profile
from simulator.scenario.files import Load, Scenario
from simulator.work import Work, count_work


@dataclass(frozen=True, slots=True)
class Workload:
    """One model. ``work``: by variant; ``begins_s``, ``ends_s``: when it comes into service and leaves it again."""

    name: str
    version: str
    budget: Budget
    variants: tuple[VariantInfo, ...]
    work: dict[str, Work]
    load: Load
    begins_s: float = 0.0
    ends_s: float = math.inf

    def arrivals(self, seed: int, duration_s: float) -> Iterator[float]:
        """Seconds since the start of each request, in order. Poisson: independent of what other models ask for."""
        draw = random.Random(f"{seed}/{self.name}/arrivals").expovariate  # noqa: S311
        poisson = self.load.arrivals == "poisson"
        rates = self.load.rates
        ends = [*(time for time, _ in rates[1:]), math.inf]
        for (start, rate), end in zip(rates, ends, strict=True):
            until = min(end, duration_s)
            if not rate:
                continue
            # The exponential distribution has no memory: a new rate may begin anew.
            count, time = 0, start + draw(rate) if poisson else start
            while time < until:
                yield time
                count += 1
                time = time + draw(rate) if poisson else start + count / rate


def read_workloads(scenario: Scenario, folder: Path) -> list[Workload]:
    """The scenario's models; their folders are relative to ``folder``. Where the board has an FPGA, what is made for
    one is compiled for its first overlay.

    ConfigError: no such model folder, or two of one name. Raises what ``count_work`` raises.
    """
    profile = load_profile(scenario.board)
    overlays = [device.overlay.names[0] for device in profile.devices if device.overlay is not None]
    found: dict[str, Workload] = {}
    for load in scenario.models:
        with TemporaryDirectory() as made:
            workload = _read_workload(load, folder, overlays[:1], Path(made))
        if workload.name in found:
            raise ConfigError(
                f"models: there are two of the name {workload.name!r}; add up their rates in one of them"
            )
        found[workload.name] = workload
    return list(found.values())


def _read_workload(load: Load, folder: Path, overlays: Sequence[str], made: Path) -> Workload:
    try:
        source = ModelFolder(folder / load.folder)
        if any("fpga" in variant.devices for variant in source.toml.variants):
            add_programs(source, overlays, made)
        files = {variant.name: source.file(variant.file) for variant in source.toml.variants}
    except PackageError as error:
        raise ConfigError(f"models.folder: {error}; it is relative to the scenario's file") from error
    toml = source.toml
    return Workload(
        toml.name,
        toml.version,
        load.budget,
        tuple(
            VariantInfo(v.name, v.format, v.precision, v.devices, v.accuracy, v.overlay)
            for v in toml.variants
        ),
        {v.name: count_work(files[v.name], v.format) for v in toml.variants},
        load,
    )
