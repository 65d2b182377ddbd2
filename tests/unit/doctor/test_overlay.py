from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.doctor.finding import Finding
from agent.doctor.overlay import Facts, judge, look
from agent.doctor.unit import Unit
from tests.unit.doctor.nodes import SOMEBODY, node, only, wrong

GOOD = Facts(True, "operating", Unit("loaded", "enabled", "active"), {"npu": ""}, True, "4.0.0")
NOT_MADE = "bitstreams/npu must hold one bitstream for zynq, and holds none; make it with build.tcl"


def judged(tmp_path: Path, facts: Facts) -> Finding:
    return only(judge(facts, node(tmp_path)))


def test_a_machine_without_an_fpga_misses_nothing(tmp_path: Path) -> None:
    assert look(tmp_path) == Facts()
    assert not wrong(judge(Facts(), node(tmp_path)))
    assert not wrong(judge(GOOD, node(tmp_path)))


@pytest.mark.parametrize(
    ("facts", "what", "mend"),
    [
        (replace(GOOD, manager=None), "no FPGA manager", "CONFIG_FPGA_MGR_ZYNQ_FPGA"),
        (replace(GOOD, manager="write error"), "reports: write error", "dmesg"),
        (replace(GOOD, unit=Unit("not-found"), answer="no"), "not installed", "enable --now overlaid-fpga"),
        (replace(GOOD, unit=Unit("masked", "masked"), answer="no"), "masked", "unmask overlaid-fpga"),
        (
            replace(
                GOOD, unit=replace(GOOD.unit or Unit(), active="failed"), answer="does not answer; start it"
            ),
            "does not answer",
            "restart overlaid-fpga",
        ),
        (replace(GOOD, bitstreams={"npu": NOT_MADE}), "no bitstream for this chip", "build.tcl"),
        (replace(GOOD, venv=False), "pynq-venv is not there", "PYNQ image"),
        (replace(GOOD, pynq=""), "pynq is not in", "pip install 'pynq==4.0.0'"),
        (replace(GOOD, pynq="3.0.1"), "pynq 3.0.1 is older", "overlaid[fpga]"),
    ],
)
def test_what_keeps_overlays_away_is_told(tmp_path: Path, facts: Facts, what: str, mend: str) -> None:
    found = judged(tmp_path, facts)

    assert what in found.what and mend in found.mend


def test_one_bitstream_is_enough(tmp_path: Path) -> None:
    assert not wrong(judge(replace(GOOD, bitstreams={"npu": "", "npu-small": NOT_MADE}), node(tmp_path)))


def test_who_may_not_ask_the_service_is_told_how_to(tmp_path: Path) -> None:
    found = only(judge(replace(GOOD, refused=True, answer="no"), node(tmp_path, viewer=SOMEBODY)))

    assert found.level == "unknown" and found.mend.startswith("sudo ")


def test_a_zynqs_files_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERLAID_FPGA_SOCKET", str(tmp_path / "none"))
    tree = tmp_path / "proc/device-tree"
    tree.mkdir(parents=True)
    (tree / "compatible").write_bytes(b"tul,pynq-z2\0xlnx,zynq-7000\0")
    assert (look(tmp_path, "armv7l").chip, look(tmp_path, "armv7l").manager) == (True, None)

    state = tmp_path / "sys/class/fpga_manager/fpga0/state"
    state.parent.mkdir(parents=True)
    state.write_text("operating\n")
    (tmp_path / "usr/local/share/pynq-venv/lib/python3.10/site-packages/pynq-3.0.1.dist-info").mkdir(
        parents=True
    )
    found = look(tmp_path, "armv7l")

    assert (found.manager, found.venv, found.pynq) == ("operating", True, "3.0.1")
    assert "npu" in found.bitstreams and found.answer
