"""Run a scenario and tell what happened: tables, JSON, a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.cli.bar import progress_bar
from agent.cli.output import print_json, print_table
from agent.cli.views import number, runs, span
from simulator.clock import Clock, EventClock, RealClock
from simulator.scenario.files import Scenario, read_scenario
from simulator.scenario.run import run_scenario
from simulator.scenario.summary import summarise
from simulator.scenario.workload import read_workloads

Values = Mapping[str, Any]


def run_and_report(path: Path, clock_name: str, picture: Path | None, as_json: bool) -> int:
    """``clock_name``: event or real. Raises ConfigError, RuntimeUnavailable (no matplotlib), UsageError."""
    if picture is not None:
        from agent.cli.picture import check_picture

        check_picture(picture)  # before minutes have passed
    scenario = read_scenario(path)
    workloads = read_workloads(scenario, path.parent)
    clock: Clock = RealClock() if clock_name == "real" else EventClock()
    with progress_bar() as progress:

        def show(now: float) -> None:
            progress(f"{span(now)} of {span(scenario.duration_s)}", now / scenario.duration_s)

        outcome = run_scenario(scenario, workloads, clock, show)
    told = summarise(outcome, clock_name)
    if as_json:
        print_json(told)
    else:
        _print(path, scenario, told)
    if picture is not None:
        from simulator.cli.plot import plot

        plot(told, scenario, picture)
        if not as_json:
            print(f"wrote {picture}")
    return 0


def _print(path: Path, scenario: Scenario, told: Values) -> None:
    speed = told["speed"]
    print(
        f"{path}: {told['board']} for {span(told['duration_s'])}, seed {told['seed']}, {told['clock']} time"
    )
    print(f"{told['note']}\n")
    print_table(
        ("MODEL", "RUNS", "REQUESTS", "FAILED", "P50 MS", "P99 MS", "WITHIN BUDGET", "MJ/RUN"),
        [row for model in told["models"] for row in _model_rows(model)],
    )
    print()
    for model in told["models"]:
        if model["refused"]:
            print(f"{model['name']} was refused: {model['refused']}\n")
    print_table(
        ("AT S", "MODEL", "FROM", "TO", "TRIGGER", "WHY"),
        [
            (f"{d['time_s']:.1f}", d["model"], runs(d["old"], False), _to(d), d["trigger"], d["reason"])
            for d in told["decisions"]
        ],
        title=f"decisions ({told['switches']} switches)",
    )
    power, heat = told["power"], told["heat"]
    each = number(power["joules_per_answer"])
    zones = ", ".join(f"{zone} {celsius:.1f} C" for zone, celsius in heat["highest_c"].items())
    print(
        f"\nenergy   {power['joules']:.0f} J, mean {power['mean_w']:.3g} W, peak {power['peak_w']:.3g} W over 1 s",
        end="",
    )
    print(f"; {each} J an answer, with all that the board draws" if each else "")
    if scenario.power_cap_w is not None or scenario.caps:
        print(f"cap      exceeded for {power['over_cap_s']:.0f} s")
    print(f"heat     at most {zones}; throttled for {heat['throttled_s']:.0f} s")
    print(f"speed    {speed['wall_s']:.2f} s, {number(speed['hours_per_s'])} simulated hours a second")


def _model_rows(model: Values) -> list[tuple[object, ...]]:
    """One row for each candidate that answered, then one for all and what failed."""
    rows: list[tuple[object, ...]] = [
        (model["name"], runs(each["candidate"], False), each["answered"], None, number(each["p50_ms"]),
         number(each["p99_ms"]), f"{each['within_budget']:.2%}", number(each["joules_per_run"] * 1e3))
        for each in model["by_candidate"]
    ]  # fmt: skip
    within = model["within_budget"]
    share = None if within is None else f"{within:.2%}"
    return [*rows, (model["name"], "all", model["requests"], _failed(model), None, None, share, None)]


def _failed(model: Values) -> str:
    why = ", ".join(f"{count} {name}" for name, count in model["failures"].items())
    return f"{model['failed']} ({why})" if why else "0"


def _to(decision: Values) -> str:
    if decision["new"] is None:
        return "shed"
    return runs(decision["new"], False) if decision["old"] != decision["new"] else "stays"
