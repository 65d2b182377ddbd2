from __future__ import annotations

from pathlib import Path

from agent.config import Config
from agent.devices.power import open_meters
from agent.doctor.board import Facts, judge, look
from agent.types import BackendInfo, BoardInfo, DeviceInfo
from tests.unit.cli.daemon import Folders, daemon
from tests.unit.doctor.nodes import node, only, wrong

CPU = DeviceInfo("cpu", "cpu", "Some CPU", (BackendInfo("onnxruntime", "1.20", ("onnx",)),))


def board(*problems: str, simulated: bool = False) -> BoardInfo:
    return BoardInfo("local", simulated, (CPU,), problems=problems)


def test_each_reason_of_the_probe_becomes_cause_and_cure(tmp_path: Path) -> None:
    text = "gpu: no driver is bound to AMD Navi 24 at 0000:03:00.0; sudo modprobe amdgpu; when that does not help, x"

    found = only(judge(Facts(board(text), by_daemon=True), node(tmp_path)))

    assert found.what == "gpu: no driver is bound to AMD Navi 24 at 0000:03:00.0"
    assert found.mend == "sudo modprobe amdgpu; when that does not help, x"
    assert "as the daemon saw it" in found.why


def test_a_board_without_a_sensor_is_told_how_to_have_an_estimate(tmp_path: Path) -> None:
    _, problems = open_meters(sysfs=tmp_path, dev=tmp_path, nvml="libnone.so")

    found = only(judge(Facts(board(*problems)), node(tmp_path, "[power]\n")))

    assert "no power sensor" in found.what
    assert "modprobe" in found.mend and "idle_w" in found.mend


def test_a_sensor_that_only_root_may_read_is_told(tmp_path: Path) -> None:
    text = "no power from /sys/class/powercap/intel-rapl:0/energy_uj: readable by root only; udev rule: X"

    found = only(judge(Facts(board(text)), node(tmp_path)))

    assert "readable by root only" in found.what and found.mend == "udev rule: X"


def test_what_other_areas_tell_is_not_told_twice(tmp_path: Path) -> None:
    facts = Facts(board("litert: broken; mend it", "fpga: overlaid-fpga.service does not answer; start it"))

    assert not wrong(judge(facts, node(tmp_path)))
    assert facts.proof is not None and facts.proof.problems == ("litert: broken; mend it",)
    assert Facts(facts.info, by_daemon=True).proof is None
    assert Facts(board(simulated=True)).proof is None


def test_a_board_that_does_not_exist_is_a_problem(tmp_path: Path) -> None:
    config = Config.model_validate_json('{"node": {"board": "nonesuch"}}')
    subject = node(tmp_path, '[node]\nboard = "nonesuch"\n')

    found = only(judge(look(config, tmp_path / "none.sock", running=False), subject))

    assert found.level == "problem" and "there is no board 'nonesuch'" in found.what
    assert "+2 " in found.mend


def test_the_daemon_that_runs_is_asked(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    with daemon(folders, {"devices": board("gpu: broken; mend it")}):
        facts = look(None, folders.runtime / "control.sock", running=True)

    assert facts.by_daemon and facts.info == board("gpu: broken; mend it")
