"""Programs by ``overlaid overlay run --on opencl``, and kernels that were built before."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyopencl
import pytest

from agent.cli import main, opencl_devices
from agent.devices.opencl.build import build_program
from agent.devices.opencl.platforms import find_devices, handle, traits_of
from agent.overlay.programfile import read_program
from tests.system import mlperf

MODELS = Path(__file__).parents[3] / "models"
NETS = (
    "digits/digits-int8.onnx",
    "camera-digits/camera-digits-int8.onnx",
    "camera-digits/camera-digits-int8.tflite",
)


class Overlaid:
    """``overlaid overlay`` in a folder that it works in."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *args: str | Path) -> tuple[int, str, str]:
        code = main(["overlay", *map(str, args)])
        out = self._capsys.readouterr()
        return code, out.out, out.err

    def compile(self, model: Path) -> None:
        """To p.npu, with an input x.npy for it."""
        assert self("compile", model, "-o", "p.npu")[0] == 0
        (spec,) = read_program(Path("p.npu").read_bytes()).inputs
        random = np.random.default_rng(3)
        if spec.dtype == "FP32":
            np.save("x.npy", random.random(spec.concrete(), np.float32))
        else:
            np.save("x.npy", random.integers(-128, 128, spec.concrete(), np.int8))

    def run(self, on: str, *args: str | Path) -> Any:
        """Its stats, or the error's code and text. Answers are in ON.npy."""
        code, out, err = self(
            "run", "p.npu", "--input", "x.npy", "--output", f"{on}.npy", "--on", on, *args, "--json"
        )
        return json.loads(out) if code == 0 else (code, err)


@pytest.fixture
def overlaid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Overlaid:
    monkeypatch.chdir(tmp_path)
    return Overlaid(capsys)


@pytest.fixture
def digits(overlaid: Overlaid) -> Overlaid:
    overlaid.compile(MODELS / NETS[0])
    return overlaid


def same_bytes(one: str, other: str) -> bool:
    return Path(one).read_bytes() == Path(other).read_bytes()


@pytest.mark.parametrize("net", NETS)
def test_the_bytes_of_the_functional_model(overlaid: Overlaid, net: str) -> None:
    overlaid.compile(MODELS / net)
    golden, found = overlaid.run("functional"), overlaid.run("opencl")
    assert same_bytes("functional.npy", "opencl.npy")
    told = [
        [(each["name"], each["kind"], each["macs"]) for each in segment["layers"]]
        for segment in found["segments"]
    ]
    assert told == [
        [(each["name"], each["kind"], each["macs"]) for each in segment["layers"]]
        for segment in golden["segments"]
    ]
    same = ("program", "overlay", "version", "macs")
    assert [found[key] for key in same] == [golden[key] for key in same]


@pytest.mark.skipif(mlperf.reason_to_skip() is not None, reason=str(mlperf.reason_to_skip()))
@pytest.mark.parametrize("name", sorted(name for name in mlperf.MODELS if name.endswith("int8")))
def test_the_bytes_of_the_functional_model_on_mlperf_tiny(overlaid: Overlaid, name: str) -> None:
    overlaid.compile(mlperf.FOLDER / mlperf.MODELS[name])
    overlaid.run("functional")
    overlaid.run("opencl")
    assert same_bytes("functional.npy", "opencl.npy") and np.unique(np.load("opencl.npy")).size > 1


def test_the_times_of_a_run(digits: Overlaid) -> None:
    found = digits.run("opencl", "--stats", "stats.json")
    stats = json.loads(Path("stats.json").read_text())
    assert stats.keys() == found.keys() and stats["device"]["kind"] == "cpu"
    (segment,) = stats["segments"]
    kernels = [*segment["layers"], *stats["layout"]]
    assert sum(each["microseconds"] for each in kernels) == pytest.approx(1e3 * stats["milliseconds"])
    assert sum(each["share"] for each in kernels) == pytest.approx(1.0)
    assert all(each["microseconds"] > 0 for each in segment["layers"])
    top = next(each for each in segment["layers"] if each["name"] == "top")
    assert top["gmacs_per_s"] == pytest.approx(top["macs"] / top["microseconds"] / 1e3)
    assert stats["cpu_ms"] == 0 and stats["transfer_ms"] > 0
    parts = (stats[key] for key in ("milliseconds", "transfer_ms", "overhead_ms"))
    assert sum(parts) == pytest.approx(stats["wall_ms"])


def test_a_table_for_people(digits: Overlaid) -> None:
    code, out, _ = digits("run", "p.npu", "--input", "x.npy", "--output", "y.npy", "--on", "opencl")
    assert code == 0
    row = next(line.split() for line in out.splitlines() if line.startswith("residual"))
    assert row[1:4] == ["conv", "3x3", "589824"] and row[-1].endswith("%")
    assert (
        "digits-int8 on opencl: " in out
        and "enqueueing" in out
        and "driver" in out
        and "CPU segments" not in out
    )


def test_kernels_that_were_built_before(digits: Overlaid) -> None:
    code, out, _ = digits("kernels", "-o", "k.clbin")
    assert code == 0 and "k.clbin: " in out and "driver" in out
    digits.run("functional")
    found = digits.run("opencl", "--binary", "k.clbin", "--device", "0")
    assert found["device"]["name"] in out and same_bytes("functional.npy", "opencl.npy")


def test_binaries_that_do_not_fit(digits: Overlaid) -> None:
    Path("raw").write_bytes(b"\x7fELF no kernels")
    assert digits("kernels", "--pack", "raw", "-o", "odd.clbin")[0] == 0
    code, err = digits.run("opencl", "--binary", "odd.clbin")
    assert code == 1 and "KernelBuildFailed" in err and "does not take the kernels in odd.clbin" in err
    data = Path("odd.clbin").read_bytes()
    Path("short.clbin").write_bytes(data[:-1])
    code, err = digits.run("opencl", "--binary", "short.clbin")
    assert code == 1 and "short.clbin is truncated or corrupt" in err
    code, err = digits.run("opencl", "--binary", "p.npu")
    assert code == 1 and "p.npu holds no kernels of overlaid" in err and "overlaid overlay kernels" in err
    code, err = digits.run("opencl", "--binary", "none.clbin")
    assert code == 1 and "none.clbin cannot be read" in err
    assert not Path("opencl.npy").exists()


def test_a_card_runs_what_was_packed_for_it(digits: Overlaid, monkeypatch: pytest.MonkeyPatch) -> None:
    """PoCL plays a card, which takes binaries only."""
    from agent.devices.opencl import engine

    (cpu, *_), _ = find_devices()
    card = replace(cpu, kind="accelerator", name="u250")
    context = pyopencl.Context([handle(cpu)])
    program = build_program(context, handle(cpu), cpu, traits_of(card), None)
    Path("built.xclbin").write_bytes(program.binaries[0])
    monkeypatch.setattr(opencl_devices, "find_devices", lambda: ([cpu, card], []))
    monkeypatch.setattr(engine, "handle", lambda _: handle(cpu))
    monkeypatch.setenv("OVERLAID_OPENCL_BINARIES", str(Path.cwd()))
    code, _, err = digits("kernels", "-o", "card.clbin")
    assert code == 2 and "u250" in err and "does not build kernels" in err and "--pack" in err
    code, err = digits.run("opencl")
    assert code == 1 and "overlaid overlay kernels --device u250 --pack" in err
    assert digits("kernels", "--device", "u250", "--pack", "built.xclbin", "-o", "card.clbin")[0] == 0
    digits.run("functional")
    assert digits.run("opencl")["device"]["kind"] == "accelerator"  # the default, before the CPU
    assert same_bytes("functional.npy", "opencl.npy")
    code, err = digits.run("opencl", "--device", str(cpu.name), "--binary", "card.clbin")
    assert code == 1 and f"card.clbin is for u250 ({cpu.platform}), and here is {cpu.name}" in err


def test_source_for_another_compiler(overlaid: Overlaid) -> None:
    code, out, _ = overlaid("kernels", "--source", "src")
    assert code == 0 and "options" in out
    assert (
        "__kernel" in Path("src/overlaid.cl").read_text()
        or "kernel void" in Path("src/overlaid.cl").read_text()
    )
    assert "-DOVERLAID_DOT=0" in Path("src/options.txt").read_text().splitlines()


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (("kernels",), 2, "-o FILE.clbin"),
        (("kernels", "--source", "src", "-o", "k.clbin"), 2, "--source writes no binary"),
        (("kernels", "--source", "src", "--pack", "raw"), 2, "not allowed with"),
        (("kernels", "--pack", "none", "-o", "k.clbin"), 1, "none: No such file"),
        (("kernels", "--pack", "empty", "-o", "k.clbin"), 2, "--pack empty is empty"),
        (("kernels", "-o", "k.clbin", "--device", "tesla"), 2, "none has that in its name; there are 0: "),
    ],
)
def test_wrong_kernels(
    overlaid: Overlaid, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], code: int, text: str
) -> None:
    Path("empty").touch()
    try:
        found, _, err = overlaid(*args)
    except SystemExit as end:  # argparse's way
        found, err = int(end.code or 0), capsys.readouterr().err
    assert found == code and text in err and not Path("k.clbin").exists()


@pytest.mark.parametrize(("option", "value"), [("--device", "0"), ("--binary", "k.clbin")])
def test_options_of_another_executor(digits: Overlaid, option: str, value: str) -> None:
    code, err = digits.run("functional", option, value)
    assert code == 2 and "--device and --binary are for --on opencl" in err


def test_a_device_that_is_not_there(digits: Overlaid) -> None:
    code, err = digits.run("opencl", "--device", "tesla")
    assert code == 2 and "--device tesla: none has that in its name; there are 0: " in err


def test_without_pyopencl(digits: Overlaid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyopencl", None)
    code, err = digits.run("opencl")
    assert (
        code == 1
        and "RuntimeUnavailable: no OpenCL device" in err
        and "pip install 'overlaid[opencl]'" in err
    )
