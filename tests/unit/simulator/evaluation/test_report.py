"""What is told of results, as tables and JSON; the command as it is typed."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from agent.cli import main
from simulator.evaluation.figures import Against, Mean
from simulator.evaluation.report import as_json, in_words, report_of, show
from simulator.evaluation.result import Recovery, Result

OURS = Result(
    family="steady", split="test", seed=0, board="trio", policy="ours", seconds=100.0, requests=1000, answered=1000,
    late=10, failed=0, shed=0, joules=110.0, switch_j=1.0, switches=3, excess_s=0.0, over_cap_s=0.0, recoveries=(),
    looks=100, plan_s=0.05, longest_plan_s=0.002,
)  # fmt: skip
NEVER = Recovery(50.0, "cap falls", None, 0.0)


def results() -> list[Result]:
    """Of two traces each of two kinds: the oracle needs 100 J, ``auto`` 300, which once does not recover."""
    found = []
    for family in ("steady", "bursty"):
        for seed in range(2):
            each = replace(OURS, family=family, seed=seed, recoveries=(replace(NEVER, seconds=0.0),))
            found += [
                replace(each, policy="oracle", joules=100.0 + seed, late=0),
                each,
                replace(each, policy="auto", joules=300.0 + seed, late=20 + seed, recoveries=(NEVER,)),
            ]
    return found


def test_policies_are_told_over_all_traces_and_by_kind() -> None:
    report = report_of(results())
    assert [each.policy for each in report.overall] == ["oracle", "ours", "auto"]
    assert {name: [each.runs for each in found] for name, found in report.families.items()} == {
        "steady": [2, 2, 2], "bursty": [2, 2, 2],
    }  # fmt: skip
    assert list(report.against) == ["auto"] and report.against["auto"].beaten
    assert len(report_of(results(), lambda each: f"{each.family} {each.seed}").families) == 4


def test_tables_say_what_is_better_and_what_never_recovered(capsys: pytest.CaptureFixture[str]) -> None:
    show(report_of(results()))
    rows = {
        line.split()[0]: line for line in capsys.readouterr().out.split("by kind")[0].splitlines() if line
    }
    assert "200" in rows["auto"] and "never" in rows["auto"] and "violates more, draws more" in rows["auto"]
    assert "1.00 ± 0.00" in rows["ours"] and "110.0" in rows["ours"]


def test_json_has_no_infinity() -> None:
    told = json.loads(json.dumps(as_json(report_of(results())), allow_nan=False))
    (auto,) = (each for each in told["overall"] if each["policy"] == "auto")
    assert auto["recovery_s"] is None and auto["slow"] == 4
    assert len(told["results"]) == 12 and told["against"]["auto"]["joules"]["value"] < -1


@pytest.mark.parametrize(
    ("unmet", "joules", "timely", "words"),
    [
        (0.0, 0.0, 0.0, "is equal"),
        (-0.1, 0.0, 0.0, "violates more"),
        (0.0, 0.2, 0.2, "draws less"),
        (-0.1, 0.2, -0.1, "violates more, draws less, more for what is in time"),
        (-0.1, 0.2, 0.0, "violates more, draws less, no less for what is in time"),
        (0.1, -0.2, -0.1, "violates less, draws more"),
    ],
)
def test_ours_beside_another(unmet: float, joules: float, timely: float, words: str) -> None:
    assert in_words(Against(Mean(unmet, 0.01), Mean(joules, 0.01), Mean(timely, 0.01))) == words
    unsure = Against(Mean(unmet, math.inf), Mean(joules, math.inf), Mean(timely, math.inf))
    assert in_words(unsure) == "is equal"


def test_the_command_compares_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "policies.png"
    args = ["sim", "evaluate", "--split", "tune", "--seeds", "1", "--trace", "steady", "--json"]
    assert main([*args, "--policies", "ours", "auto", "hindsight", "--plot", str(picture)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {each["policy"] for each in told["overall"]} == {"oracle", "hindsight", "ours", "auto"}
    assert told["split"] == "tune" and list(told["against"]) == ["auto"]
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--trace", "storm"], "there is no trace 'storm'; there are bursty, "),
        (["--policies", "best"], "there is no policy 'best'; there are alert, "),
        (["--seeds", "0"], "--seeds must be between 1 and 1000, not 0"),
        (["--plot", "no/folder/x.png"], "there is no folder"),
    ],
)
def test_what_the_command_does_not_know_is_named(
    args: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sim", "evaluate", *args]) == 2
    assert text in capsys.readouterr().err
