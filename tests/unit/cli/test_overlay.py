from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.cli import main
from agent.overlay.compiler import compile_graph
from agent.overlay.functional import from_planes, run_layers, to_planes
from agent.overlay.program import Program, Segment
from agent.overlay.programfile import write_program
from agent.overlay.selftest import self_test_graph
from agent.overlay.spec import load_spec, overlay_folder
from tests.unit.overlay.onnx_nets import Net

NPU = load_spec("npu")


class Overlaid:
    """``overlaid overlay``, and a folder with a program and an input for it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        self.program: Program = compile_graph(self_test_graph(), NPU)
        self.path = folder / "selftest.npu"
        self.path.write_bytes(write_program(self.program))
        rng = np.random.default_rng(1)
        self.x = rng.integers(-128, 128, (1, 3, 16, 16)).astype(np.int8)
        np.save(folder / "x.npy", self.x)

    def __call__(self, *args: str | Path) -> tuple[int, str, str]:
        code = main(["overlay", *map(str, args)])
        out = self._capsys.readouterr()
        return code, out.out, out.err

    def answer(self) -> Any:
        (segment,) = self.program.steps
        assert isinstance(segment, Segment)
        planes = run_layers(segment.layers, {"x": to_planes(self.program.tensors["x"], self.x)})
        return from_planes(self.program.tensors["y"], planes["y"])


@pytest.fixture
def overlaid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Overlaid:
    return Overlaid(tmp_path, capsys)


def model(folder: Path) -> Path:
    """A convolution and, beside the overlay, a Sigmoid."""
    net = Net(1)
    x = net.input([1, 3, 8, 8])
    steps, after = net.steps(), net.steps()
    rest = [net.constant(net.weights((5, 3, 3, 3))), net.constant(np.float32(0.01)), net.constant(np.int8(0))]
    y = net.node("QLinearConv", [x, *steps, *rest, *after])
    y = net.node("Sigmoid", [net.dequantize(y, after)])
    path = folder / "model.onnx"
    path.write_bytes(net.model(y).SerializeToString())
    return path


def test_compile_report(overlaid: Overlaid) -> None:
    source, target = model(overlaid.folder), overlaid.folder / "model.npu"
    code, out, _ = overlaid("compile", source, "-o", target, "--overlay", "npu-small")
    assert code == 0
    assert "model on overlay npu-small version 1" in out and "on the CPU: " in out and "Sigmoid" in out
    code, out, _ = overlaid("report", target)
    assert code == 0
    row = next(line for line in out.splitlines() if "conv 3x3" in line).split()
    assert row[3:5] == ["5x6x6", str(5 * 27 * 36)]
    code, out, _ = overlaid("report", target, "--json")
    report = json.loads(out)
    (segment,) = report["segments"]
    (layer,) = segment["layers"]
    assert (layer["macs"], report["macs"]) == (4860, 4860)
    assert layer["utilisation"] == pytest.approx(4860 / 64 / layer["cycles"])
    assert report["cycles"] == segment["cycles"] > layer["cycles"] >= layer["issue"]
    assert report["milliseconds"] == pytest.approx(segment["cycles"] / 1e5)
    assert {aside["where"] for aside in report["asides"]} == {"cpu"}
    # Packed input (ten columns: windows of two pixels), one block of weights that stays, one plane that leaves.
    assert (layer["read"], layer["written"]) == (8 * 10 * 4, 36 * 8)
    assert segment["weight_bytes"] == segment["resident_bytes"] == (4 + 6 * 4) * 16


def test_layers_of_the_report(overlaid: Overlaid) -> None:
    _, out, _ = overlaid("report", overlaid.path, "--json")
    (segment,) = json.loads(out)["segments"]
    assert [layer["kind"] for layer in segment["layers"]] == [
        "conv 3x3", "depthwise 3x3", "conv 1x1", "add", "max pool 2x2", "average pool 4x4", "conv 1x1",
    ]  # fmt: skip
    spent = [
        sum(layer[name] for name in ("issue", "wait", "drain", "weights")) for layer in segment["layers"]
    ]
    assert sum(spent) == pytest.approx(sum(layer["cycles"] for layer in segment["layers"]), abs=60)
    assert [layer["utilisation"] is None for layer in segment["layers"]] == [False] * 3 + [True] * 3 + [False]
    assert sum(layer["read"] for layer in segment["layers"]) == 17 * 5 * 16
    assert [layer["written"] for layer in segment["layers"]] == [0] * 6 + [16]


def test_plot(overlaid: Overlaid) -> None:
    code, out, _ = overlaid("report", overlaid.path, "--plot", overlaid.folder / "out.png")
    assert code == 0 and "drawn: " in out
    assert (overlaid.folder / "out.png").read_bytes()[:4] == b"\x89PNG"
    code, _, _ = overlaid("report", overlaid.path, "--plot", overlaid.folder / "plain")
    assert code == 0 and (overlaid.folder / "plain").is_file()
    code, _, err = overlaid("report", overlaid.path, "--plot", overlaid.folder / "out.odd")
    assert code == 2 and "cannot write" in err


def test_run(overlaid: Overlaid) -> None:
    folder = overlaid.folder
    stats = folder / "stats.json"
    code, out, _ = overlaid(
        "run", overlaid.path, "--input", folder / "x.npy", "--output", folder / "y.npy", "--stats", stats
    )
    assert code == 0
    np.testing.assert_array_equal(np.load(folder / "y.npy"), overlaid.answer())
    found = json.loads(stats.read_text())
    assert f"{found['cycles']} cycles, {found['stalls']} of them stalls" in out
    (segment,) = found["segments"]
    assert (
        sum(layer["cycles"] for layer in segment["layers"])
        <= found["cycles"]
        == segment["counters"]["cycles"]
    )
    assert all(layer["stalls"] == layer["cycles"] - layer["issue"] >= 0 for layer in segment["layers"])
    assert found["utilisation"] == pytest.approx(overlaid.program.macs / 256 / found["cycles"])
    code, out, _ = overlaid(
        "run",
        overlaid.path,
        "--input",
        f"x={folder / 'x.npy'}",
        "--output",
        f"y={folder / 'z.npy'}",
        "--json",
    )
    again = json.loads(out)
    for stats_of in (found, again):  # of this machine, so never the same
        (its,) = stats_of["segments"]
        assert its.pop("pack_ms") > 0 and its.pop("transfer_ms") > 0
    assert code == 0 and again == found
    assert (folder / "z.npy").read_bytes() == (folder / "y.npy").read_bytes()


def test_paths_with_an_equals_sign(overlaid: Overlaid) -> None:
    folder = overlaid.folder / "rate=0.1"
    folder.mkdir()
    shutil.copy(overlaid.folder / "x.npy", folder)
    code, _, _ = overlaid(
        "run", overlaid.path, "--input", f"x={folder / 'x.npy'}", "--output", f"y={folder / 'y.npy'}"
    )
    assert code == 0
    np.testing.assert_array_equal(np.load(folder / "y.npy"), overlaid.answer())


def test_an_overlay_in_a_folder(overlaid: Overlaid) -> None:
    folder = overlaid.folder / "mine"
    shutil.copytree(overlay_folder("npu"), folder)
    text = (folder / "overlay.toml").read_text().replace('id = "npu"', 'id = "mine"', 1)
    (folder / "overlay.toml").write_text(text)
    source = model(overlaid.folder)
    target = overlaid.folder / "mine.npu"
    assert overlaid("compile", source, "-o", target, "--overlay", folder)[0] == 0
    code, out, _ = overlaid("report", target, "--overlay", folder)
    assert code == 0 and "on overlay mine version 1" in out
    code, _, err = overlaid("report", target)
    assert code == 1 and "OverlayLoadError: there is no overlay 'mine'" in err
    code, _, err = overlaid("report", target, "--overlay", "npu")
    assert code == 1 and "ProgramError" in err and "is for overlay mine version 1" in err


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        (["--input", "y=x.npy"], 2, "give each of these once: x"),
        (["--input", "x.npy", "--input", "x.npy"], 2, "give each of these once: x"),
        (["--output", "x=y.npy"], 2, "give each of these once: y"),
        (["--input", "flat.npy"], 1, "TensorError: "),
        (["--input", "text.npy"], 2, "give an array that numpy.save wrote"),
        (["--input", "empty.npy"], 2, "give an array that numpy.save wrote"),
        (["--input", "deep.npy"], 2, "give an array that numpy.save wrote"),
        (["--input", "huge.npy"], 2, "give an array that numpy.save wrote"),
        (["--input", "several.npz"], 2, "is an archive of arrays"),
        (["--input", "none.npy"], 1, "none.npy: No such file"),
        (["--on", "nowhere"], 1, "nothing runs overlays on 'nowhere'"),
    ],
)
def test_wrong_runs(
    overlaid: Overlaid, monkeypatch: pytest.MonkeyPatch, change: list[str], code: int, text: str
) -> None:
    monkeypatch.chdir(overlaid.folder)
    np.save("flat.npy", overlaid.x.ravel())
    Path("text.npy").write_text("no array")
    Path("empty.npy").touch()
    for name, shape in (("deep", "(" * 3000), ("huge", "(1, 3, 16, 100000000000)}")):
        head = f"{{'descr': '|i1', 'fortran_order': False, 'shape': {shape}\n".encode()
        Path(f"{name}.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head)
    np.savez("several.npz", x=overlaid.x)
    options = {"--input": ["--input", "x.npy"], "--output": ["--output", "y.npy"]}
    options.pop(change[0], None)
    given = [*(word for option in options.values() for word in option), *change]
    found, _, err = overlaid("run", overlaid.path, *given)
    assert found == code and text in err
    assert not Path("y.npy").exists()


def test_outputs_are_written_where_they_are_wanted(overlaid: Overlaid) -> None:
    target = overlaid.folder / "y.bin"
    assert overlaid("run", overlaid.path, "--input", overlaid.folder / "x.npy", "--output", target)[0] == 0
    assert np.load(target).shape == (1, 10)


def test_names_do_not_steer_the_terminal(overlaid: Overlaid) -> None:
    overlaid.path.write_bytes(write_program(replace(overlaid.program, name="a\n\x1b[31mb")))
    code, out, _ = overlaid("report", overlaid.path)
    assert code == 0 and "a ?[31mb on overlay npu" in out
    code, out, _ = overlaid(
        "run", overlaid.path, "--input", overlaid.folder / "x.npy", "--output", overlaid.folder / "y.npy"
    )
    assert code == 0 and "a ?[31mb on functional" in out


def test_files_that_are_no_models_or_programs(overlaid: Overlaid) -> None:
    code, _, err = overlaid("report", overlaid.folder / "x.npy")
    assert code == 1 and "ProgramError: this is no overlay program" in err
    code, _, err = overlaid("compile", overlaid.folder / "x.npy", "-o", overlaid.folder / "x.npu")
    assert code == 1 and "ModelLoadError" in err and not (overlaid.folder / "x.npu").exists()
    code, _, err = overlaid("compile", overlaid.path, "-o", overlaid.path)
    assert code == 2 and "is the model itself" in err
