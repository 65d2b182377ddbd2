from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.devices.cpu import BACKENDS, CpuDevice
from agent.devices.opencl import engine, session
from agent.devices.opencl.icds import Findings, Icd
from agent.devices.opencl.platforms import ClDevice, best_cpu, find_devices
from agent.devices.opencl.session import open_on_cpu, prove, prove_cpu
from agent.devices.program import open_functional
from agent.errors import InferenceError, KernelBuildFailed, RuntimeUnavailable
from agent.hal import ModelFile
from agent.overlay.compiler import compile_graph
from agent.overlay.programfile import write_program
from agent.overlay.selftest import self_test_graph
from agent.overlay.spec import load_spec

NOTHING = Findings(True, "/etc/OpenCL/vendors", (), (), "")


@pytest.fixture
def model(tmp_path: Path) -> ModelFile:
    graph = self_test_graph()
    path = tmp_path / "selftest.npu"
    path.write_bytes(write_program(compile_graph(graph, load_spec("npu"))))
    return ModelFile(path, "npu", graph.inputs, graph.outputs, 1, cache=tmp_path / "engines")


@pytest.fixture
def cpu() -> ClDevice:
    found = best_cpu(find_devices()[0])
    assert found is not None
    return found


def offer(monkeypatch: pytest.MonkeyPatch, devices: Sequence[ClDevice], *problems: str) -> None:
    monkeypatch.setattr(session, "find_devices", lambda: (list(devices), list(problems)))


def test_the_cpu_runs_programs_by_opencl_with_numpys_bits(model: ModelFile) -> None:
    pixels = np.random.default_rng(0).integers(-128, 128, (1, 3, 16, 16)).astype(np.int8)
    golden, opened = open_functional(model), CpuDevice().open(model, "opencl")
    want, got = (each.run({"x": pixels}) for each in (golden, opened))
    opened.close()
    assert got.outputs["y"].tobytes() == want.outputs["y"].tobytes()
    assert got.parts == {}
    assert got.device_s == got.wall_s
    assert model.cache is not None
    assert [path.name for path in model.cache.iterdir()] == ["opencl"]


def test_sessions_of_one_process_run_on_different_cores() -> None:
    class Whole:
        max_compute_units = 6

        def create_sub_devices(self, how: list[int]) -> list[tuple[int, ...]]:
            _, threads, end = how
            assert end == 0
            return [tuple(range(start, start + threads)) for start in range(0, 6 - threads + 1, threads)]

    whole = Whole()
    parts = [engine._part(whole, 2) for _ in range(6)]
    assert {len(set(parts[start : start + 3])) for start in range(4)} == {3}
    assert engine._part(whole, 6) is whole
    assert len({engine._part(whole, 4) for _ in range(3)}) == 1


def test_no_zygote_warms_a_driver() -> None:
    assert BACKENDS["opencl"].warm is None


def test_a_proof_names_the_runtime(cpu: ClDevice) -> None:
    assert prove(cpu).startswith("PoCL ")
    assert prove_cpu() == prove(cpu)


def test_a_machine_without_opencl_is_in_order(monkeypatch: pytest.MonkeyPatch, cpu: ClDevice) -> None:
    monkeypatch.setattr(session, "look", lambda: NOTHING)
    offer(monkeypatch, [])
    assert prove_cpu() == ""
    offer(monkeypatch, [replace(cpu, kind="gpu")], "something about a GPU")
    assert prove_cpu() == ""


def test_a_broken_driver_is_told_of(monkeypatch: pytest.MonkeyPatch, cpu: ClDevice) -> None:
    broken = replace(NOTHING, icds=(Icd("/etc/OpenCL/vendors/a.icd", "liba.so", "no such file"),))
    monkeypatch.setattr(session, "look", lambda: broken)
    offer(monkeypatch, [])
    with pytest.raises(
        RuntimeUnavailable, match=r"a\.icd names liba\.so, which does not load \(no such file\)"
    ):
        prove_cpu()
    monkeypatch.undo()
    monkeypatch.setattr(session, "look", lambda: broken)
    assert prove_cpu() != ""  # another driver offers the CPU


def test_no_driver_for_the_cpu(monkeypatch: pytest.MonkeyPatch, model: ModelFile) -> None:
    offer(monkeypatch, [], "no OpenCL driver in /etc/OpenCL/vendors")
    with pytest.raises(
        RuntimeUnavailable, match="no OpenCL driver offers this CPU: no OpenCL driver in /etc/OpenCL/vendors"
    ):
        open_on_cpu(model)
    offer(monkeypatch, [])
    with pytest.raises(RuntimeUnavailable, match="install pocl-opencl-icd"):
        open_on_cpu(model)


def test_too_little_memory_for_a_compiler_is_told_before_it_hangs(
    monkeypatch: pytest.MonkeyPatch, model: ModelFile
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256 << 20, 256 << 20))
    with pytest.raises(
        RuntimeUnavailable, match=r"needs 384 MiB, a worker may have 256: raise serving\.worker_memory_mb"
    ):
        open_on_cpu(model)
    # More than this process, which has run other tests, may hold already.
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1 << 40, 1 << 40))
    open_on_cpu(model).close()


@pytest.mark.parametrize("forbidden", [True, False])
def test_a_sandbox_is_named_where_it_may_be_the_reason(
    monkeypatch: pytest.MonkeyPatch, cpu: ClDevice, forbidden: bool
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise KernelBuildFailed("mmap: Permission denied")

    monkeypatch.setattr(session, "OpenClEngine", fails)
    monkeypatch.setattr(session, "forbids_new_code", lambda: forbidden)
    with pytest.raises(KernelBuildFailed, match="mmap: Permission denied") as caught:
        prove(cpu)
    assert ("systemd/overlaid-gpu.conf" in str(caught.value)) == forbidden


def test_other_bits_are_no_proof(monkeypatch: pytest.MonkeyPatch, cpu: ClDevice) -> None:
    monkeypatch.setattr("agent.devices.program.SELF_TEST_ANSWER", [0] * 10)
    with pytest.raises(InferenceError, match="computes the self-test wrongly"):
        prove(cpu)
