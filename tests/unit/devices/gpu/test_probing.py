"""Probing with runtimes that this test plays: its processes are real, their Python is a script."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from agent.devices.gpu import device as device_module
from agent.devices.gpu import probing
from agent.devices.gpu.device import GpuDevice, local_gpus
from agent.devices.gpu.gpus import Gpu
from agent.devices.opencl.platforms import ClDevice
from agent.errors import RuntimeUnavailable
from agent.hal import ModelFile

MALI = ClDevice(
    "ARM Platform", "Mali-G610 r0p0", "gpu", "OpenCL 3.0", "1.0", "ARM", 8_000_000_000, 1 << 30, 4, 1024, True, None,
    (0, 0),
)  # fmt: skip
GPU = Gpu("gpu", "Arm Mali-G610", "arm", None, 0, "mali", ())
SOFTWARE = Gpu("gpu", "software renderer", software=True)
SCRIPT = """#!/bin/sh
shift 2  # -m MODULE
echo "$1" >> {log}
case "$1" in
providers) answer='{providers}' ;;
opencl) test $# = 1 && answer='{devices}' || answer='{opencl}' ;;
litert) {litert} ;;
*) answer="1.2 $1" ;;
esac
printf '{{"version": "%s", "problem": ""}}' "$(printf %s "$answer" | sed 's/"/\\\\"/g')"
"""


class Runtimes:
    """What runtimes answer: version text by what is asked."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.python, self.log = folder / "python", folder / "log"
        monkeypatch.setattr(sys, "executable", str(self.python))
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())

    def play(
        self,
        providers: tuple[str, ...] = (),
        devices: tuple[ClDevice, ...] = (),
        opencl: str = "x",
        litert: str = "answer=2",
    ) -> None:
        text = SCRIPT.format(
            log=self.log, providers=json.dumps(providers), devices=json.dumps([asdict(each) for each in devices]),
            opencl=opencl, litert=litert,
        )  # fmt: skip
        self.python.write_text(text)
        self.python.chmod(0o755)

    def asked(self) -> list[str]:
        return sorted(self.log.read_text().split()) if self.log.exists() else []


@pytest.fixture
def runtimes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runtimes:
    return Runtimes(tmp_path, monkeypatch)


def test_without_a_gpu_nothing_is_started(runtimes: Runtimes) -> None:
    runtimes.play()
    assert probing.probe_gpus(()) == probing.Probed()
    assert runtimes.asked() == []


def test_routes_that_are_proved_are_backends(runtimes: Runtimes) -> None:
    runtimes.play(("cuda", "webgpu"), (MALI,), "Mali OpenCL 3.0")
    found = probing.probe_gpus((GPU,))
    (info,) = found.devices
    assert (info.id, info.kind, info.name, info.memory_mb) == ("gpu", "gpu", "Mali-G610 r0p0", 8000)
    assert {(b.name, b.version, b.formats) for b in info.backends} == {
        ("webgpu", "1.2 webgpu", ("onnx",)),
        ("litert", "2", ("tflite",)),
        ("opencl", "Mali OpenCL 3.0", ("npu",)),
    }
    assert found.problems == ()
    assert "cuda" not in runtimes.asked()  # no NVIDIA GPU here


def test_a_route_that_crashes_takes_no_other_with_it(runtimes: Runtimes) -> None:
    runtimes.play(devices=(MALI,), litert="kill -SEGV $$")
    found = probing.probe_gpus((GPU,))
    assert [b.name for b in found.devices[0].backends] == ["opencl"]
    (problem,) = found.problems
    assert problem.startswith("gpu: litert: crashed with SIGSEGV")


def test_a_route_that_hangs_takes_no_other_with_it(runtimes: Runtimes) -> None:
    runtimes.play(devices=(MALI,), litert="exec sleep 600")
    found = probing.probe_gpus((GPU,), timeout_s=2.0)
    assert [b.name for b in found.devices[0].backends] == ["opencl"]
    assert "took too long" in found.problems[0]


def test_a_gpu_that_nothing_runs_on_is_a_problem_and_no_device(runtimes: Runtimes) -> None:
    runtimes.play(litert="exit 3", opencl="")
    gpu = Gpu("gpu", "Intel GPU 8086:46a6", "intel", "0000:00:02.0")
    found = probing.probe_gpus((gpu,))
    assert found.devices == ()
    assert any("no driver is bound to Intel GPU 8086:46a6" in problem for problem in found.problems)
    assert GpuDevice(gpu).info.backends == ()


def test_several_gpus_are_told_apart(runtimes: Runtimes) -> None:
    runtimes.play(("cuda",), (MALI,))
    nvidia = Gpu("gpu1", "NVIDIA H200", "nvidia", "0000:1b:00.0")
    found = probing.probe_gpus((Gpu("gpu0", "Arm Mali-G610", "arm"), nvidia))
    backends = {info.id: {b.name for b in info.backends} for info in found.devices}
    assert backends == {"gpu0": {"litert", "opencl"}, "gpu1": {"cuda", "litert", "opencl"}}
    assert {info.name for info in found.devices} == {"Mali-G610 r0p0", "NVIDIA H200"}


def test_software_says_so(runtimes: Runtimes) -> None:
    pocl = ClDevice(
        "Portable Computing Language",
        "pthread",
        "cpu",
        "OpenCL 3.0",
        "3",
        "x",
        4_000_000_000,
        1,
        2,
        64,
        False,
        None,
        (0, 0),
    )
    runtimes.play(("cuda", "webgpu"), (pocl,))
    (info,) = probing.probe_gpus((SOFTWARE,)).devices
    assert info.note == "software: pthread, on the CPU's cores"
    assert {b.name for b in info.backends} == {"webgpu", "litert", "opencl"}


def test_what_cannot_be_listed_is_told(runtimes: Runtimes) -> None:
    runtimes.play(devices=(MALI,))
    runtimes.python.write_text(runtimes.python.read_text().replace("providers) ", "providers) exit 7; "))
    found = probing.probe_gpus((GPU,))
    assert [b.name for b in found.devices[0].backends] == ["litert", "opencl"]
    assert found.problems == ("gpu: onnxruntime: ended with exit code 7 while loading a tiny model",)


def test_a_listing_that_hangs_leaves_time_for_the_routes(runtimes: Runtimes) -> None:
    runtimes.play(("webgpu",))
    hang = "opencl) test $# = 1 && exec sleep 600; "
    runtimes.python.write_text(
        runtimes.python.read_text()
        .replace("opencl) ", hang)
        .replace("*) ", "*) test $1 = providers || sleep 1; ")
    )
    found = probing.probe_gpus((SOFTWARE,), timeout_s=6.0)
    assert "webgpu" in {b.name for b in found.devices[0].backends}
    assert any(problem.startswith("gpu: pyopencl: took too long") for problem in found.problems)


def test_a_gpu_that_only_opencl_shows(runtimes: Runtimes, monkeypatch: pytest.MonkeyPatch) -> None:
    runtimes.play(devices=(MALI,))
    monkeypatch.setattr(device_module, "find_gpus", lambda software: ())
    monkeypatch.setattr(device_module, "has_nodes", lambda: True)
    (gpu,) = local_gpus()
    assert (gpu.id, gpu.name, gpu.vendor) == ("gpu", "Mali-G610 r0p0", "arm")


def test_without_nodes_opencl_is_not_asked(runtimes: Runtimes, monkeypatch: pytest.MonkeyPatch) -> None:
    runtimes.play(devices=(MALI,))
    monkeypatch.setattr(device_module, "find_gpus", lambda software: ())
    monkeypatch.setattr(device_module, "has_nodes", lambda: False)
    assert local_gpus() == ()
    assert runtimes.asked() == []


@pytest.mark.parametrize(
    ("backend", "format", "text"),
    [
        ("cuda", "onnx", "gpu has no backend 'cuda'; there are openvino, webgpu, litert, opencl"),
        ("opencl", "onnx", "opencl opens npu, not onnx"),
    ],
)
def test_what_a_gpu_does_not_open(tmp_path: Path, backend: str, format: str, text: str) -> None:
    with pytest.raises(RuntimeUnavailable, match=text):
        GpuDevice(SOFTWARE).open(ModelFile(tmp_path / "m", format, (), ()), backend)


def test_a_runtime_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "agent.devices.gpu.opencl_gpu", None)
    with pytest.raises(
        RuntimeUnavailable, match=r"opencl cannot be imported .*; pip install 'overlaid\[opencl\]'"
    ):
        GpuDevice(SOFTWARE).open(ModelFile(tmp_path / "m", "npu", (), ()), "opencl")
