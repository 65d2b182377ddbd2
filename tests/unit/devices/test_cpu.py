from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.devices import litert_cpu
from agent.devices.cpu import CpuDevice, cpu_name, prove_backends
from agent.errors import ModelLoadError, RuntimeUnavailable
from agent.hal import Device, ModelFile
from agent.types import TensorSpec

X, Y = TensorSpec("x", "FP32", (-1, 4)), TensorSpec("y", "FP32", (-1, 4))


def test_is_a_device() -> None:
    device: Device = CpuDevice()
    assert device.info.kind == "cpu"
    assert device.info.memory_mb
    assert device.info.memory_mb > 100
    assert 1 <= device.info.parallel <= len(os.sched_getaffinity(0))


def test_the_daemon_stays_light() -> None:
    """Opening the board and its meters imports neither numpy nor a runtime."""
    code = (
        "import sys; from pathlib import Path;"
        "from agent.devices.board import open_board; from agent.devices import probe;"
        "board = open_board('local', Path('/nonexistent')); board.meters(); board.device('cpu');"
        "print([m for m in ('numpy', 'onnxruntime', 'ai_edge_litert') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.fixture
def shadow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a package of our own before the installed one, for child processes."""

    def shadow(package: str, code: str) -> None:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    return shadow


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "crashed with SIGSEGV while loading a tiny model"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGILL)", "crashed with SIGILL"),
        ("raise ImportError('libfoo.so.1: cannot open shared object file')", "libfoo.so.1: cannot open"),
        ("import os\nos._exit(3)", "ended with exit code 3"),
        ("import os\nprint('not json', flush=True)\nos._exit(0)", "ended with exit code 0"),
        ("", "has no attribute 'SessionOptions'"),
    ],
)  # fmt: skip
def test_a_runtime_that_breaks_does_not_hide_the_other(
    shadow: Callable[[str, str], None], code: str, problem: str
) -> None:
    shadow("onnxruntime", code)
    proof = prove_backends()
    assert [backend.name for backend in proof.backends] == ["litert", "program", "opencl"]
    (found,) = proof.problems
    assert found.startswith("onnxruntime: ")
    assert problem in found


def test_a_runtime_that_hangs_is_given_up(shadow: Callable[[str, str], None]) -> None:
    shadow("onnxruntime", "import time\ntime.sleep(600)")
    shadow("ai_edge_litert", "import time\ntime.sleep(600)")
    shadow("numpy", "import time\ntime.sleep(600)")
    shadow("pyopencl", "import time\ntime.sleep(600)")
    proof = prove_backends(timeout_s=0.2)
    assert proof.backends == ()
    assert all("took too long" in problem for problem in proof.problems)
    assert len(proof.problems) == 4


def test_a_runtime_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert prove_backends().problems == (
        "onnxruntime: not installed; pip install 'overlaid[onnx]'",
        "litert: not installed; pip install 'overlaid[litert]'",
        "program: not installed; pip install 'overlaid[npu]'",
    )


def test_a_runtime_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        RuntimeUnavailable, match=r"onnxruntime cannot be imported .*pip install 'overlaid\[onnx\]'"
    ):
        CpuDevice().open(ModelFile(tmp_path / "m.onnx", "onnx", (X,), (Y,)), "onnxruntime")


class Interpreter:
    """What the LiteRT session needs of an interpreter module's class; doubles its input."""

    def __init__(self, model_content: bytes, num_threads: int) -> None:
        self.value: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = np.zeros((1, 4), np.float32)

    def allocate_tensors(self) -> None: ...

    def set_tensor(self, index: int, value: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
        self.value = 2 * value

    def invoke(self) -> None: ...

    def get_tensor(self, index: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return self.value


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, object], None]]:
    """Stand-ins for the two runtimes, in this process."""

    def put(package: str, interpreter: object) -> None:
        module = types.ModuleType(f"{package}.interpreter")
        module.Interpreter = interpreter  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
        monkeypatch.setitem(sys.modules, f"{package}.interpreter", module)

    litert_cpu.runtime.cache_clear()
    yield put
    litert_cpu.runtime.cache_clear()


def broken(**_: object) -> None:
    raise AttributeError("_ARRAY_API not found")  # tflite-runtime 2.14 beside numpy 2


def test_tflite_runtime_when_the_newer_one_is_missing(
    packages: Callable[[str, object], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    packages("tflite_runtime", Interpreter)
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    assert litert_cpu.runtime().__name__ == "tflite_runtime.interpreter"


def test_tflite_runtime_when_the_newer_one_imports_but_fails(packages: Callable[[str, object], None]) -> None:
    packages("ai_edge_litert", broken)
    packages("tflite_runtime", Interpreter)
    assert litert_cpu.runtime().__name__ == "tflite_runtime.interpreter"


def test_importing_proves_nothing(packages: Callable[[str, object], None], tmp_path: Path) -> None:
    class Wrong(Interpreter):
        def invoke(self) -> None:
            self.value = self.value + 1

    packages("ai_edge_litert", Wrong)
    packages("tflite_runtime", broken)
    with pytest.raises(
        RuntimeUnavailable, match=r"ai_edge_litert: computed .*; tflite_runtime: _ARRAY_API not found"
    ):
        CpuDevice().open(ModelFile(tmp_path / "m", "tflite", (X,), (Y,)), "litert")


def test_a_file_with_numbers_that_numpy_does_not_know_is_refused(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    kinds = [helper.make_tensor_value_info(name, TensorProto.BFLOAT16, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", kinds[:1], kinds[1:])
    path = tmp_path / "bfloat16.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelLoadError, match=r"'x' is a tensor\(bfloat16\)"):
        CpuDevice().open(ModelFile(path, "onnx", (X,), (Y,)), "onnxruntime")


@pytest.mark.parametrize(
    ("cpuinfo", "model", "name"),
    [
        ("processor\t: 0\nmodel name\t: Intel(R) N100\nmodel name\t: other\n", None, "Intel(R) N100"),
        ("model name\t: ARMv7 (v7l)\n", b"Digilent PYNQ-Z2\0", "ARMv7 (v7l) (Digilent PYNQ-Z2)"),
        ("processor : 0\nBogoMIPS : 108.00\n", b"Raspberry Pi 5\0", f"{os.uname().machine} (Raspberry Pi 5)"),
        ("\xff\n:::\nmodel name\n", None, os.uname().machine),
        (None, None, os.uname().machine),
    ],
)  # fmt: skip
def test_names_of_processors(tmp_path: Path, cpuinfo: str | None, model: bytes | None, name: str) -> None:
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo, encoding="latin-1")
    if model is not None:
        (tmp_path / "device-tree").mkdir()
        (tmp_path / "device-tree/model").write_bytes(model)
    cores = len(os.sched_getaffinity(0))
    assert cpu_name(tmp_path) == f"{name}, {cores} core{'s' if cores > 1 else ''}"
