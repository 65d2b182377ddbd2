from __future__ import annotations

from pathlib import Path

import pytest

from agent.devices.cpu import Proof, prove_backends
from agent.doctor.runtimes import Facts, judge, look
from agent.types import BackendInfo
from tests.unit.doctor.nodes import only, wrong

ONNX = BackendInfo("onnxruntime", "1.20", ("onnx",))
LITERT = BackendInfo("litert", "2.1 (ai_edge_litert)", ("tflite",))
# What tflite-runtime 2.14 says beside numpy 2.
TFLITE_FAILS = (
    "litert: no LiteRT runtime works here: ai_edge_litert: No module named 'ai_edge_litert'; "
    "tflite_runtime: _ARRAY_API not found"
)
PIP = "/opt/overlaid/bin/python -m pip"


def facts(*problems: str, works: tuple[BackendInfo, ...] = (ONNX,), **versions: str) -> Facts:
    named = {name.replace("_", "-"): version for name, version in versions.items()}
    return Facts(Proof(works, problems), named, PIP)


def test_runtimes_that_work_are_fine() -> None:
    assert not wrong(judge(facts(works=(ONNX, LITERT), numpy="2.1.0", tflite_runtime="2.14.0")))


def test_tflite_beside_numpy_2_is_told_as_such() -> None:
    found = only(judge(facts(TFLITE_FAILS, numpy="2.1.0", tflite_runtime="2.14.0")))

    assert found.level == "problem"
    assert "tflite-runtime 2.14.0" in found.what and "numpy 2.1.0" in found.what
    assert f"{PIP} install 'numpy<2'" in found.mend


def test_tflite_that_fails_beside_numpy_1_has_another_cause() -> None:
    found = only(judge(facts(TFLITE_FAILS, numpy="1.26.4", tflite_runtime="2.14.0")))

    assert found.what.startswith("litert does not work") and "force-reinstall" in found.mend


def test_one_that_is_not_installed_is_nobodys_problem_while_another_works() -> None:
    missing = "litert: not installed; pip install 'overlaid[litert]'"

    assert not wrong(judge(facts(missing)))
    found = only(judge(facts(missing, works=())))
    assert "no runtime works" in found.what and f"{PIP} install" in found.mend


def test_one_that_nothing_needs_is_a_warning() -> None:
    assert (
        only(judge(facts("opencl: clang crashed; update the driver (3.0)"))).mend == "update the driver (3.0)"
    )


def test_two_packages_with_the_same_files_are_a_warning() -> None:
    found = only(judge(facts(onnxruntime="1.20", onnxruntime_gpu="1.20")))

    assert found.level == "warning" and "uninstall" in found.mend


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise ImportError('libfoo.so.1: cannot open shared object file')", "libfoo.so.1"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "SIGILL"),
    ],
)
def test_a_runtime_that_cannot_be_loaded_is_tried_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, says: str
) -> None:
    package = tmp_path / "onnxruntime"
    package.mkdir()
    (package / "__init__.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    proof = prove_backends(("onnxruntime",))
    found = wrong(judge(Facts(proof, {}, PIP)))

    assert [finding.level for finding in found] == ["problem", "problem"]
    assert says in str(found) and f"{PIP} install --force-reinstall 'overlaid[onnx]'" in str(found)


def test_what_is_installed_here_is_seen() -> None:
    found = look(Proof((), ()))

    assert found.versions["numpy"]
    assert not any(name.startswith("onnxruntime-ep") for name in found.versions)  # they plug into one
    assert found.pip.endswith("/bin/python -m pip")
