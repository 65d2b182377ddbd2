"""Scenarios on the small board, without model files."""

from __future__ import annotations

from typing import Any

import pytest

from agent.placement.planning.candidates import VariantInfo
from agent.types import Budget
from simulator.clock import Clock, EventClock
from simulator.faults import Fault
from simulator.profile import BoardProfile
from simulator.scenario import files, run
from simulator.scenario.files import Cap, Load, Scenario
from simulator.scenario.run import Outcome, run_scenario
from simulator.scenario.summary import summarise
from simulator.scenario.workload import Workload
from simulator.work import Work
from tests.unit.simulator.small import small_board

# INT8: 3 ms and 12 mJ on the CPU, 1.5 ms and 1.5 mJ on the FPGA, 2.4 ms and 24 mJ on the GPU.
WORK = Work(8_000_000, 1000, "int8")
INT8 = VariantInfo("int8", "onnx", "int8", ("cpu", "gpu", "fpga"), 0.9)


def workload(
    name: str = "m", p99_ms: float = 10.0, rate_hz: float = 20.0, variant: VariantInfo = INT8, **load: Any
) -> Workload:
    """One variant of 8 million MACs."""
    budget = Budget(p99_ms, rate_hz)
    return Workload(
        name, "1", budget, (variant,), {variant.name: WORK}, Load(folder="x", budget=budget, **load)
    )


class Stage:
    """Runs scenarios on ``board``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.board: BoardProfile = small_board()
        for module in (files, run):
            monkeypatch.setattr(module, "load_profile", lambda name: self.board)

    def run(
        self,
        *workloads: Workload,
        duration_s: float = 60.0,
        seed: int = 1,
        cap_w: float | None = None,
        caps: tuple[Cap, ...] = (),
        faults: tuple[Fault, ...] = (),
        clock: Clock | None = None,
    ) -> Outcome:
        scenario = Scenario(
            board="small", seed=seed, duration_s=duration_s, power_cap_w=cap_w,
            models=tuple(each.load for each in workloads), caps=caps, faults=faults,
        )  # fmt: skip
        return run_scenario(scenario, workloads, clock or EventClock())


def moves(outcome: Outcome) -> list[tuple[str | None, str, str]]:
    """(from, to, trigger) of every switch and of the start."""
    return [
        (d.old.device if d.old else None, d.new.device, d.trigger)
        for d in outcome.decisions
        if d.new is not None and d.old != d.new
    ]


def told(outcome: Outcome) -> dict[str, Any]:
    """The summary without what differs from run to run."""
    summary = summarise(outcome, "event")
    del summary["speed"]
    return summary
