"""build.tcl in a plain Tcl interpreter: Vivado's commands are stubs that write down how they are called.

It shows that the script is valid Tcl, takes every path, and wires what there is to what there is. Whether Vivado builds
the design is not shown: it has not been run.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.overlay.spec import load_spec
from bitstreams import FOLDER

VIVADO = FOLDER / "npu" / "vivado"
STUBS = """
set calls [open $env(CALLS) w]
proc note {args} {
    puts $::calls [join [lmap word $args {string map {"\\n" " "} $word}] "\\t"]
    flush $::calls
}
proc unknown {name args} {
    note $name {*}$args
    # get_x a/b: the object that is named
    if {[regexp {^get_(bd_|runs|files|filesets)} $name]} { return [lindex $args end] }
    if {$name eq "create_bd_cell"} { return [lindex $args end] }
    return $name
}
proc get_board_parts {args} { return $::env(BOARD_PARTS) }
proc create_project {args} {
    note create_project {*}$args
    set ::project [lindex $args 2]
}
proc launch_runs {name args} {
    note launch_runs $name {*}$args
    if {$name eq "impl_1" && $::env(MADE)} {
        foreach path {p.gen/sources_1/bd/overlay/hw_handoff/overlay.hwh p.runs/impl_1/overlay_wrapper.bit} {
            file mkdir [file dirname $::project/$path]
            close [open $::project/$path w]
        }
    }
}
proc get_property {name object} {
    switch $name {
        PROGRESS { return $::env(PROGRESS) }
        STATS.WNS { return $::env(SLACK) }
        STATS.WHS { return 0.05 }
    }
    return "route_design ERROR"
}
"""

pytestmark = pytest.mark.skipif(
    shutil.which("tclsh") is None, reason="tclsh is not installed (Debian package tcl)"
)
BOARDS = {"pynq-z2": "tul.com.tw:pynq-z2:part0:1.0", "kv260": "xilinx.com:kv260_som:part0:1.4"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The overlays' sources, copied: the script writes into its own tree."""
    for overlay in ("npu", "npu-small"):
        (tmp_path / overlay).mkdir()
        shutil.copy(FOLDER / overlay / "npu_params.svh", tmp_path / overlay)
    shutil.copytree(FOLDER / "npu" / "rtl", tmp_path / "npu" / "rtl")
    shutil.copytree(VIVADO, tmp_path / "npu" / "vivado", ignore=shutil.ignore_patterns("build"))
    return tmp_path


def build(
    tree: Path, *arguments: str, **answers: str
) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    """How the script ended, and every call of Vivado's commands."""
    script = tree / "npu" / "vivado" / "build.tcl"
    wrapper = f"set argv [list {' '.join(arguments)}]; source {tree / 'stubs.tcl'}"
    (tree / "stubs.tcl").write_text(STUBS + f"source {script}\n")
    defaults = {"BOARD_PARTS": BOARDS.get(arguments[0], ""), "SLACK": "0.2", "PROGRESS": "100%", "MADE": "1"}
    calls = tree / "calls"
    done = subprocess.run(
        ["tclsh"], input=f"if {{[catch {{{wrapper}}} m]}} {{puts stderr $m; exit 1}}", capture_output=True,
        text=True, timeout=60, check=False, env=defaults | answers | {"CALLS": str(calls), "PATH": "/usr/bin"},
    )  # fmt: skip
    return done, [line.split("\t") for line in calls.read_text().splitlines()]


@pytest.mark.parametrize("overlay", ["npu", "npu-small"])
@pytest.mark.parametrize(
    ("board", "part", "processor"),
    [
        ("pynq-z2", "xc7z020clg400-1", "processing_system7_0"),
        ("kv260", "xck26-sfvc784-2LV-c", "zynq_ultra_ps_e_0"),
    ],
)
def test_every_board_and_overlay_is_built_and_released(
    tree: Path, overlay: str, board: str, part: str, processor: str
) -> None:
    done, calls = build(tree, board, *([overlay] if overlay != "npu" else []))
    assert done.returncode == 0, done.stderr
    project = next(call for call in calls if call[0] == "create_project")
    assert project[2] == f"{overlay}-{board}"
    assert project[-1] == part
    assert sorted(path.name for path in (tree / overlay / "release").iterdir()) == [
        f"{overlay}-{board}.bit",
        f"{overlay}-{board}.hwh",
    ]
    (include,) = [call[2] for call in calls if call[:2] == ["set_property", "include_dirs"]]
    assert (Path(include) / "npu_params.svh").is_file()
    assert Path(include).name == overlay
    sources = next(call for call in calls if call[0] == "add_files")[1].split()
    assert {Path(path).name for path in sources} == {
        path.name for path in (tree / "npu" / "rtl").iterdir()
    } | {"npu_axi.v"}
    settings = next(
        call for call in calls if call[:2] == ["set_property", "-dict"] and call[-1] == processor
    )[2]
    (mhz,) = re.findall(r"FREQMHZ (\S+)", settings)
    assert float(mhz) == load_spec(overlay).clock.hz / 1e6


@pytest.mark.parametrize("board", BOARDS)
def test_wires_join_pins_of_cells_that_exist_and_every_pin_of_the_core(tree: Path, board: str) -> None:
    _, calls = build(tree, board)
    cells = {call[-1] for call in calls if call[0] == "create_bd_cell"}
    joined = [call[1:] for call in calls if call[0] in ("connect_bd_net", "connect_bd_intf_net")]
    assert {pin.split("/")[0] for pins in joined for pin in pins} == cells
    sinks = [pins[1] for pins in joined]
    assert len(sinks) == len(set(sinks))
    core = {pin.split("/")[1] for pins in joined for pin in pins if pin.startswith("npu_0/")}
    wrapper = (VIVADO / "npu_axi.v").read_text()
    assert core == set(re.findall(r"XIL_INTERFACENAME (\w+)", wrapper))


def test_the_wrapper_has_the_ports_of_the_core_and_the_widths_of_the_overlays() -> None:
    wrapper = (VIVADO / "npu_axi.v").read_text()
    ports = set(re.findall(r"^    (?:input|output) +wire +(?:\[[\d:]+\] +)?(\w+)", wrapper, re.M))
    top = (FOLDER / "npu" / "rtl" / "npu_top.sv").read_text()
    listed = re.search(r"module npu_top \((.*?)\);", top, re.S)
    assert listed is not None
    assert ports | {"trace_compute_done"} == set(re.findall(r"\w+", listed[1]))
    for name in ("araddr", "awaddr"):
        (high,) = re.findall(rf"\[(\d+):0\] m_axi_{name}", wrapper)
        assert {int(high) + 1} == {load_spec(overlay).axi.address_bits for overlay in ("npu", "npu-small")}


@pytest.mark.parametrize(
    ("answers", "complaint"),
    [
        ({"SLACK": "-0.1"}, "timing is not met"),
        ({"SLACK": ""}, "timing is not met"),
        ({"PROGRESS": "60%"}, "synth_1 ended with: route_design ERROR"),
        ({"BOARD_PARTS": ""}, "install its board files"),
        ({"MADE": "0"}, "there are 0"),
    ],
)
def test_nothing_is_released_when_a_step_fails(tree: Path, answers: dict[str, str], complaint: str) -> None:
    done, _ = build(tree, "pynq-z2", **answers)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert not list(tree.glob("npu/release/*.bit"))


@pytest.mark.parametrize(
    "arguments", [("zedboard",), ("pynq-z2", "vta"), ("pynq-z2", "npu", "more"), ("{}",)]
)
def test_wrong_arguments_are_answered_with_the_usage(tree: Path, arguments: tuple[str, ...]) -> None:
    done, calls = build(tree, *arguments)
    assert done.returncode == 1
    assert "pynq-z2|kv260" in done.stderr
    assert calls == []


@pytest.mark.parametrize("path", sorted((FOLDER / "npu" / "rtl").glob("*.sv")), ids=lambda path: path.stem)
def test_inputs_are_nets_by_name(path: Path) -> None:
    """Under `default_nettype none` Vivado refuses inputs that leave that to the default (Synth 8-6735)."""
    text = path.read_text()
    assert "`default_nettype none" in text and text.rstrip().endswith("`default_nettype wire")
    assert re.findall(r"^ *input(?! +wire\b).*", text, re.MULTILINE) == []
