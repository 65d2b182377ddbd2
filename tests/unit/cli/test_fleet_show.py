"""What the operator's commands print about nodes."""

from __future__ import annotations

from typing import Any

import pytest

from agent.cli.fleet_show import DeployProgress, print_bindings, print_result
from agent.errors import MessageError
from agent.fleet.views import NodeView
from agent.link.messages import Reported, ReportedBinding, ReportedModel, Result, Status
from agent.types import Budget, DesiredModel, Phase, State, to_jsonable
from tests.unit.cli.daemon import PLACEMENT

FIRST = to_jsonable(PLACEMENT.verdicts[0])
BORN = Status(online=True, boot_id="b1")


def printed(capsys: pytest.CaptureFixture[str], op: str, output: dict[str, Any], why: str = "") -> list[str]:
    state = State.FAILED if why else State.SUCCEEDED
    fields = {"id": "c1", "op": op, "state": state, "why": why, "output": output}
    print_result("cam-7", Result.model_validate(fields))
    return capsys.readouterr().out.splitlines()


def test_bench_prints_the_table_of_explain(capsys: pytest.CaptureFixture[str]) -> None:
    told = {
        "verdicts": PLACEMENT.verdicts,
        "budget": PLACEMENT.budget,
        "candidate": PLACEMENT.candidate,
        "new": 1,
    }
    for output, used in ((told, True), ({"verdicts": PLACEMENT.verdicts}, False)):
        lines = printed(capsys, "bench", to_jsonable(output))
        assert lines[0] == f"cam-7: runs {'int8 on cpu (onnxruntime)' if used else 'nowhere'}"
        assert lines[1].split()[0] == "CANDIDATE" and ("USED" in lines[1]) == used
        assert lines[3].startswith("int8 on cpu (onnxruntime) *") and lines[4] == "    chosen"
        assert lines[5] == "fp32 on cpu (litert): p99 25 ms is over 20 ms"


@pytest.mark.parametrize(
    "verdicts",
    [
        None,
        {},
        [1],
        [{"candidate": {}, "chosen": True, "reason": ""}],
        [{**FIRST, "measurement": {**FIRST["measurement"], "confidence": 1e308}}],
        [{**FIRST, "measurement": {**FIRST["measurement"], "confidence": float("nan")}}],
    ],
)
def test_verdicts_of_another_form_are_refused_by_name(verdicts: Any) -> None:
    with pytest.raises(MessageError, match="--json prints them"):
        print_result(
            "cam-7", Result(id="c1", op="bench", state=State.SUCCEEDED, output={"verdicts": verdicts})
        )


@pytest.mark.parametrize(
    ("op", "output", "why", "line"),
    [
        ("restart", {"restarted": "digits"}, "", "cam-7: restarted digits"),
        ("cancel", {"canceled": "di\x1bgits"}, "", "cam-7: canceled di?gits"),
        ("cancel", {}, "UsageError: nothing", "cam-7: cancel FAILED: UsageError: nothing"),
        ("restart", {}, "", "cam-7: restart SUCCEEDED"),
    ],
)
def test_other_results_are_a_plain_line(
    capsys: pytest.CaptureFixture[str], op: str, output: dict[str, Any], why: str, line: str
) -> None:
    assert printed(capsys, op, output, why) == [line]


def test_status_shows_where_bindings_stand(capsys: pytest.CaptureFixture[str]) -> None:
    why = "no model digits is in service here"
    binding = ReportedBinding(input_topic="s/a", model="digits", output_topic="o/a", state="WAITING", why=why)
    heard = Reported(revision_seen=1, revision_applied=1, time=1.0, bindings=[binding])
    print_bindings([NodeView("cam-7", reported=heard), NodeView("cam-8")])
    assert capsys.readouterr().out.splitlines()[-1] == f"cam-7  s/a   digits  o/a  WAITING  {why}"
    print_bindings([NodeView("cam-8")])
    assert capsys.readouterr().out == ""


def test_a_deployment_that_is_followed_in_a_pipe_prints_phases(capsys: pytest.CaptureFixture[str]) -> None:
    model = DesiredModel("digits", "1.0.0", "ab" * 32, Budget(20.0, 10.0))
    with DeployProgress(model, quiet=False) as progress:
        for phase, share in ((Phase.PROFILING, 0.5), (Phase.SOAKING, 0.1), (Phase.SOAKING, 0.2)):
            told = ReportedModel(
                name="digits", version="1.0.0", state=State.IN_PROGRESS, phase=phase, progress=share
            )
            report = Reported(revision_seen=1, revision_applied=0, time=1.0, models=[told])
            progress.show(NodeView("cam-7", BORN, report))
    assert capsys.readouterr().out.splitlines() == [
        "cam-7: IN_PROGRESS PROFILING",
        "cam-7: IN_PROGRESS SOAKING",
    ]
