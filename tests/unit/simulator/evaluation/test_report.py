"""What is told of results, as tables and JSON; the command as it is typed."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from agent.cli import main
from simulator.cli.evaluate import NAMES, TRACES
from simulator.evaluation.figures import Against, Mean
from simulator.evaluation.policies import POLICIES
from simulator.evaluation.report import WIDTH, as_json, in_words, report_of, requests_alone, show
from simulator.evaluation.result import Recovery, Result
from simulator.evaluation.run import HINDSIGHT
from simulator.evaluation.traces import FAMILIES

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
    overall, decide = (
        {line.split()[0]: line for line in part.splitlines() if line}
        for part in capsys.readouterr().out.split("by kind")[0].split("how they decide")
    )
    assert "200" in overall["auto"] and "never" in overall["auto"]
    assert "violates more, draws more" in decide["auto"]
    assert "1.00 ± 0.00" in overall["ours"] and "110" in overall["ours"]


def over_cap() -> list[Result]:
    """As ``results``, but ``auto`` is never late and pays for it with seconds over the cap."""
    return [
        replace(each, late=0, over_cap_s=40.0 + each.seed) if each.policy == "auto" else each
        for each in results()
    ]


def test_who_is_over_the_cap_is_told_apart_from_who_is_late(capsys: pytest.CaptureFixture[str]) -> None:
    report = report_of(over_cap())
    assert report.against["auto"].unmet.below and report.against["auto"].requests.above
    show(report)
    told = capsys.readouterr().out
    (row,) = (line for line in told.split("how they")[0].splitlines() if line.startswith("auto"))
    assert "40.5" in row
    flat = " ".join(told.split())
    assert "seconds over the cap" in flat
    assert "requests alone, these violate less than ours: auto (by more than chance)." in flat


def test_nobody_is_named_who_is_late_more_often(capsys: pytest.CaptureFixture[str]) -> None:
    report = report_of(results())
    assert requests_alone(report.against) is None
    show(report)
    assert "requests alone" not in capsys.readouterr().out


def test_less_by_chance_is_said_to_be() -> None:
    def beside(requests: float) -> Against:
        return Against(Mean(0.0, 0.1), Mean(requests, 0.1), Mean(0.0, 0.1), Mean(0.0, 0.1))

    told = requests_alone({"auto": beside(0.05), "gpu-90": beside(0.2), "alert": beside(-0.2)})
    assert told is not None and told.endswith(": gpu-90 (by more than chance); auto (within chance).")


@pytest.mark.parametrize("each", [False, True])
def test_tables_keep_to_their_width(each: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """With the longest names that there are, and figures of every size."""
    wide = [
        replace(
            OURS, family=family, seed=seed, board="jetson-orin-nano", policy=policy, joules=110.0 * 30**number,
            late=300 * number + 50 * (seed % 3), failed=10, shed=10, over_cap_s=50.0 * number + seed % 7,
            excess_s=99.0, switches=100, recoveries=(NEVER,),
        )
        for family in FAMILIES
        for seed in range(10)
        for number, policy in enumerate(("oracle", "ours", "always-fpga"))
    ]  # fmt: skip
    show(report_of(wide, lambda of: f"{of.family} {of.seed} {of.board}" if each else of.family))
    told = capsys.readouterr().out.splitlines()
    assert max(map(len, told)) <= WIDTH and any(len(line) > 0.8 * WIDTH for line in told)


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
    assert (
        in_words(Against(Mean(unmet, 0.01), Mean(unmet, 0.01), Mean(joules, 0.01), Mean(timely, 0.01)))
        == words
    )
    unsure = Against(
        Mean(unmet, math.inf), Mean(unmet, math.inf), Mean(joules, math.inf), Mean(timely, math.inf)
    )
    assert in_words(unsure) == "is equal"


def test_the_help_names_every_trace_and_policy(capsys: pytest.CaptureFixture[str]) -> None:
    assert TRACES.split(", ") == [*FAMILIES] and NAMES.split(", ") == [HINDSIGHT, *POLICIES]
    with pytest.raises(SystemExit):
        main(["sim", "evaluate", "--help"])
    told = "".join(capsys.readouterr().out.split())  # a line may end at a name's hyphen
    assert TRACES.replace(" ", "") in told and NAMES.replace(" ", "") in told


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
