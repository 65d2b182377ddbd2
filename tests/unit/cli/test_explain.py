"""``overlaid explain`` and ``overlaid bench`` against a daemon's answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.errors import UsageError
from agent.telemetry.writer import Telemetry
from agent.types import Budget, Candidate, Measurement, Verdict, to_jsonable
from tests.unit.cli.daemon import CPU, PLACEMENT, SLOW, Folders, daemon

NPU = Candidate("npu-small", "npu", "fpga")
FAST = Measurement(
    NPU, 500, 1.5, 1.4, 2.0, 0.99, 0.6, 4, 0.975, 0.0004, "measured", holding_w=0.2, joules_sigma=0.00002,
    load_j=0.3, parts=(("fpga", 1.5), ("cpu", 0.1)),
)  # fmt: skip
CHOSEN = PLACEMENT.verdicts[0]
VERDICTS = (
    CHOSEN,
    Verdict(NPU, False, "feasible, but more energy than int8 on cpu: 0.204 W > 0.012 W", FAST),
    Verdict(replace(SLOW, backend="none", device="fpga"), False, "fpga has no runtime for onnx"),
)
DEVICES = [
    {"id": "cpu", "kind": "cpu", "parallel": 2, "slowdown": 1.5, "sigma": 0.1, "utilisation": 0.002,
     "limit": 0.7, "lost": "", "overlay": None},
    {"id": "fpga", "kind": "fpga", "parallel": 1, "slowdown": 1.0, "sigma": None, "utilisation": 0.0,
     "limit": 0.8, "lost": "DeviceLost: gone", "overlay": "npu-small"},
]  # fmt: skip
ANSWER: dict[str, Any] = {
    "placement": replace(PLACEMENT, verdicts=VERDICTS),
    "plan": {"watts": 5.91, "watts_bound": 6.2, "cap_w": 7.0, "rest_w": 5.8, "rest_sigma_w": 0.05, "power_w": 5.95,
             "optimal": True, "sensor": "VDD_IN"},
    "models": [
        {"model": "digits", "candidate": CPU, "priority": 0, "budget_hz": 10.0, "rate_hz": 3.2, "watts": 0.012,
         "missed": ""},
        {"model": "kws", "candidate": None, "priority": 0, "budget_hz": 5.0, "rate_hz": None, "watts": None,
         "missed": "it is shed: cap 7 W"},
    ],
    "devices": DEVICES,
    "threads": 1,
    "outlook": [{"text": "npu-small on fpga if the cap falls below 3.1 W", "at": 3.1}, "fp32 if the sun goes out"],
}  # fmt: skip
BENCH: dict[str, Any] = {
    "model": "digits", "version": "1.0.0", "budget": Budget(20, 10, 0.5), "instances": 1, "power_cap_w": 7.0,
    "rest_w": 5.8, "candidate": CPU, "verdicts": VERDICTS, "devices": DEVICES, "threads": 1,
}  # fmt: skip


def test_every_candidate_has_its_numbers_and_why_it_lost(overlaid: Any, folders: Folders) -> None:
    with daemon(folders, {"explain": ANSWER}) as seen:
        code, out, _ = overlaid("explain", "digits")
    assert code == 0 and seen == [{"op": "explain", "model": "digits"}]
    lines = out.splitlines()
    [chosen] = [i for i, line in enumerate(lines) if line.startswith("int8 on cpu (onnxruntime) *")]
    assert lines[chosen].split()[5:] == ["0.4", "(99%)", "1.2", "measured", "-", "0.1", "s", "0.1%", "0.981"]
    assert lines[chosen + 1] == "    chosen"
    [other] = [i for i, line in enumerate(lines) if line.startswith("npu-small on fpga (npu)")]
    used = ["2", "(99%)", "0.4", "±0.039", "measured", "0.2", "0.6", "s", "0.3", "J", "1.5%", "0.975"]
    assert lines[other].split()[4:] == used
    assert lines[other + 1].strip() == "feasible, but more energy than int8 on cpu: 0.204 W > 0.012 W"
    assert "fp32 on fpga: fpga has no runtime for onnx" in lines


def test_the_plan_of_the_node_is_shown(overlaid: Any, folders: Folders) -> None:
    with daemon(folders, {"explain": ANSWER}):
        _, out, _ = overlaid("explain", "digits")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "node 5.95 W now, cap 7 W" in lines
    wanted = "plan 5.91 W at the budgets' rates, at most 6.2 W (95%); 5.8 ±0.05 W of it without models"
    assert wanted in lines
    assert "digits int8 on cpu 0 10 3.2 0.012 nothing" in lines
    assert "kws nowhere (refused) 0 5 - - it is shed: cap 7 W" in lines
    assert "cpu 1.5 ±0.1 0.2% 70% - ok" in lines
    assert "fpga 1 0% 80% npu-small lost: DeviceLost: gone" in lines
    after = lines[lines.index("the choice would change:") :]
    assert after[1:3] == ["npu-small on fpga if the cap falls below 3.1 W", "fp32 if the sun goes out"]
    assert lines[-1] == "fp32 if the sun goes out"


def test_the_last_moves_are_shown(overlaid: Any, folders: Folders) -> None:
    telemetry = Telemetry(folders.state / "telemetry.db", 1)
    for number in range(7):
        telemetry.event("replaced", f"int8 on cpu -> nowhere: cap: number {number}", "digits")
    telemetry.event("replaced", "another one's", "kws")
    telemetry.event("broker", "connected")
    telemetry.close()
    with daemon(folders, {"explain": ANSWER}):
        _, out, _ = overlaid("explain", "digits")
        _, document, _ = overlaid("explain", "digits", "--json")
    shown = out.partition("last changes:\n")[2].splitlines()
    assert [line.rpartition(" ")[2] for line in shown] == ["2", "3", "4", "5", "6"]
    assert [each["kind"] for each in json.loads(document)["changes"]] == ["replaced"] * 5


def test_it_reads_well_on_a_hundred_columns(
    overlaid: Any, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    long = replace(VERDICTS[1], reason="it would draw more than the cap leaves; " * 6)
    answer = {**ANSWER, "placement": replace(PLACEMENT, verdicts=(CHOSEN, long), reason="word " * 60)}
    with daemon(folders, {"explain": answer}):
        _, out, _ = overlaid("explain", "digits")
    assert max(map(len, out.splitlines())) <= 100
    assert out.count("it would draw") == 6 and out.count("word") == 60


def test_what_is_not_known_is_said(overlaid: Any, folders: Folders) -> None:
    blind = {"watts": None, "watts_bound": None, "cap_w": None, "rest_w": None, "rest_sigma_w": 0.0, "power_w": None,
             "optimal": False, "sensor": None}  # fmt: skip
    shed = replace(PLACEMENT, candidate=None, reason="it is shed")  # type: ignore[arg-type]
    with daemon(folders, {"explain": {**ANSWER, "plan": blind, "placement": shed, "outlook": []}}):
        _, out, _ = overlaid("explain", "digits")
    for part in (
        "draw not known, no cap",
        "its watts are not known",
        "cut short",
        "nowhere: its requests are refused",
        "that was tried changes the choice",
    ):
        assert part in out


def test_columns_without_a_figure_are_left_out(overlaid: Any, folders: Folders) -> None:
    plain = replace(PLACEMENT, budget=Budget(20, 0))
    with daemon(folders, {"explain": {"placement": plain}}):
        _, out, _ = overlaid("explain", "digits")
    assert "HELD W" not in out and "USED" not in out and "node " not in out


def test_several_instances_are_named(overlaid: Any, folders: Folders) -> None:
    for placement, shown in ((PLACEMENT, False), (replace(PLACEMENT, instances=4), True)):
        with daemon(folders, {"explain": {"placement": placement}}):
            _, out, _ = overlaid("explain", "digits")
        assert ("4, on a CPU" in out) == shown


def test_json_has_the_decision_on_top_and_the_node_beside_it(overlaid: Any, folders: Folders) -> None:
    with daemon(folders, {"explain": ANSWER}):
        code, out, _ = overlaid("explain", "digits", "--json")
    found = json.loads(out)
    assert code == 0 and found["daemon"] == "running"
    assert found["candidate"] == to_jsonable(CPU) and found["plan"]["cap_w"] == 7.0
    assert found["outlook"][0]["at"] == 3.1 and found["devices"] == DEVICES


def test_without_a_daemon_it_uses_the_record(overlaid: Any, folders: Folders) -> None:
    telemetry = Telemetry(folders.state / "telemetry.db", 1)
    telemetry.placement(PLACEMENT)
    telemetry.close()
    code, out, _ = overlaid("explain", "digits", "--json")
    found = json.loads(out)
    assert code == 3 and found["daemon"] == "down" and found["plan"] is None
    assert {key: found[key] for key in to_jsonable(PLACEMENT)} == to_jsonable(PLACEMENT)
    code, out, _ = overlaid("explain", "digits")
    assert code == 3 and out.startswith("THE DAEMON IS DOWN") and "least energy" in out
    code, _, err = overlaid("explain", "unknown")
    assert code == 3 and "no placement of 'unknown'" in err and "overlaid run" in err


def test_without_a_daemon_or_a_record_it_says_both(overlaid: Any) -> None:
    code, out, err = overlaid("explain", "digits")
    assert code == 3 and out == ""
    assert "DaemonNotRunning" in err and "overlaid run" in err and "telemetry" in err


def test_bench_shows_progress_the_table_and_the_front(
    overlaid: Any, folders: Folders, tmp_path: Path
) -> None:
    steps = [
        {"progress": {"phase": phase, "share": share}}
        for phase, share in (("int8 on cpu", 0.0), ("int8 on cpu", 0.4), ("npu-small on fpga", 0.5))
    ]
    picture = tmp_path / "front.png"
    with daemon(folders, {"bench": [*steps, {"ok": to_jsonable(BENCH)}]}) as seen:
        code, out, err = overlaid("bench", "digits", "--plot", str(picture))
    assert code == 0 and seen == [{"op": "bench", "model": "digits"}]
    assert err.splitlines() == ["digits: int8 on cpu", "digits: npu-small on fpga"]
    assert "int8 on cpu (onnxruntime) *" in out
    assert "A  int8 on cpu (onnxruntime): p99 0.4 ms, 1.2 mJ measured (on the front, runs)" in out
    assert "b  npu-small on fpga (npu): p99 2 ms, 20.4 ±0.039 mJ measured\n" in out
    assert "latency budget 20 ms" in out and "power budget: 50 mJ a request" in out
    assert "node's cap: 120 mJ a request" in out
    assert picture.read_bytes().startswith(b"\x89PNG") and f"wrote {picture}" in out


def test_bench_as_json_has_the_front(overlaid: Any, folders: Folders) -> None:
    with daemon(folders, {"bench": BENCH}):
        code, out, _ = overlaid("bench", "digits", "--json")
    found = json.loads(out)
    assert code == 0 and len(found["verdicts"]) == 3
    assert [(p["name"], p["front"], p["chosen"]) for p in found["front"]] == [
        ("int8 on cpu (onnxruntime)", True, True),
        ("npu-small on fpga (npu)", False, False),
    ]


def test_bench_without_a_meter_prints_the_table_and_says_why_there_is_no_picture(
    overlaid: Any, folders: Folders, tmp_path: Path
) -> None:
    assert CHOSEN.measurement is not None
    blind = replace(CHOSEN, measurement=replace(CHOSEN.measurement, joules=None, energy="missing"))
    with daemon(folders, {"bench": {**BENCH, "verdicts": [blind]}}):
        code, out, err = overlaid("bench", "digits", "--plot", str(tmp_path / "x.png"))
    assert code == 2 and "int8 on cpu (onnxruntime) *" in out and "missing" in out
    assert "UsageError: nothing to draw" in err and "overlaid devices" in err


@pytest.mark.parametrize("name", ["front.docx", "front", "nowhere/front.png"])
def test_bench_into_a_file_that_cannot_be_is_refused_before_anything_is_measured(
    overlaid: Any, folders: Folders, tmp_path: Path, name: str
) -> None:
    with daemon(folders, {"bench": BENCH}) as seen:
        code, out, err = overlaid("bench", "digits", "--plot", str(tmp_path / name))
    assert code == 2 and "UsageError: cannot write" in err and out == "" and seen == []


@pytest.mark.parametrize("command", ["explain", "bench"])
def test_the_daemons_refusal_is_told(overlaid: Any, folders: Folders, command: str) -> None:
    refusal = UsageError("nosuch is not deployed here; see: overlaid models")
    with daemon(folders, {command: refusal}):
        code, out, err = overlaid(command, "nosuch")
    assert code == 2 and out == "" and "see: overlaid models" in err


def test_bench_without_a_daemon_says_how_to_start_it(overlaid: Any) -> None:
    code, _, err = overlaid("bench", "digits")
    assert code == 3 and "overlaid run" in err
