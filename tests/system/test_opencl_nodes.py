"""Real daemons with OpenCL (PoCL): as one of the CPU's runtimes, and as a stand-in for a GPU that is lost, has no
memory left or builds no kernels."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system import depthwise
from tests.system.cl_fault import MEM_OBJECT_ALLOCATION_FAILURE, ClFault
from tests.system.digits import DIGITS, ROOT
from tests.system.stage import Node, Stage, stage, wait_until
from tests.system.steady import Steady

CAMERA = "camera-digits"
BUDGET = ("--latency-p99", "500ms", "--rate", "1/s")
BUILD_PROGRAM_FAILURE, PLATFORM_NOT_FOUND = -11, -1001
# The CPU of the node with the stand-in has no OpenCL: both would be the same cores, and equally fast.
NO_OPENCL_CPU = """
import sys
if sys.orig_argv[-2:] == ["agent.devices.cpu", "opencl"]:
    sys.exit("not on this machine")
"""


@pytest.fixture(scope="module")
def fault(tmp_path_factory: pytest.TempPathFactory) -> ClFault:
    return ClFault(tmp_path_factory.mktemp("fault"))


@pytest.fixture(scope="module")
def it(tmp_path_factory: pytest.TempPathFactory, fault: ClFault) -> Iterator[Stage]:
    root = tmp_path_factory.mktemp("opencl")
    (root / "bare").mkdir()
    (root / "bare" / "sitecustomize.py").write_text(NO_OPENCL_CPU)
    with stage(root) as it:
        it.serve()
        it.publish(depthwise.write_depthwise(root / "depthwise"))
        it.publish(ROOT / "models" / CAMERA, "--overlay", "npu", "--no-check")
        it.publish(DIGITS, "--overlay", "npu", "--no-check")
        it.node("plain").launch()
        node = it.node("stand-in", board="local:software-gpu")
        with pytest.MonkeyPatch.context() as bare:
            for name, value in {**fault.environment, "PYTHONPATH": str(root / "bare")}.items():
                bare.setenv(name, value)
            node.launch()
        for node in it.nodes:
            node.wait()
        yield it


@pytest.fixture
def plain(it: Stage) -> Node:
    return it.nodes[0]


@pytest.fixture
def standin(it: Stage, fault: ClFault) -> Iterator[Node]:
    yield it.nodes[1]
    fault.end()


def deploy(it: Stage, node: Node, what: str) -> None:
    it.fleet("deploy", what, "--node", node.name, *BUDGET, "--wait")


def explained(node: Node, model: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(node.run("explain", model, "--json").stdout)
    return found


def route(node: Node, model: str) -> tuple[str, str] | None:
    """Device and runtime."""
    found = node.model(model)
    candidate = found["candidate"] if found else None
    return (candidate["device"], candidate["backend"]) if candidate else None


def verdict(node: Node, model: str, device: str, backend: str) -> dict[str, Any]:
    [found] = [
        each
        for each in explained(node, model)["verdicts"]
        if (each["candidate"]["device"], each["candidate"]["backend"]) == (device, backend)
    ]
    return dict(found)


def fastest(node: Node, model: str) -> tuple[str, str]:
    """Device and runtime of the least p99, which decides on a node without energies. On a machine that does much else
    it need not be that of the least median."""
    measured = [each for each in explained(node, model)["verdicts"] if each["measurement"] is not None]
    best = min(measured, key=lambda each: each["measurement"]["p99_ms"])["candidate"]
    return best["device"], best["backend"]


def p50_ms(node: Node, model: str, backend: str) -> float:
    """Of the backend's best variant."""
    return min(
        float(each["measurement"]["p50_ms"])
        for each in explained(node, model)["verdicts"]
        if each["candidate"]["backend"] == backend and each["measurement"] is not None
    )


def test_opencl_is_chosen_where_it_is_faster_than_numpy(it: Stage, plain: Node) -> None:
    deploy(it, plain, f"{depthwise.NAME}@1.0.0")
    assert p50_ms(plain, depthwise.NAME, "opencl") < p50_ms(plain, depthwise.NAME, "program")
    assert route(plain, depthwise.NAME) == fastest(plain, depthwise.NAME)
    told = plain.run("explain", depthwise.NAME).stdout
    assert "cpu (opencl)" in told and "cpu (program)" in told
    assert plain.request("POST", f"/v2/models/{depthwise.NAME}/infer", depthwise.infer_body())[0] == 200


def test_the_cpus_own_runtime_is_chosen_where_there_is_a_model_for_it(it: Stage, plain: Node) -> None:
    deploy(it, plain, f"{CAMERA}@1.0.0")
    assert p50_ms(plain, CAMERA, "onnxruntime") < p50_ms(plain, CAMERA, "opencl")
    assert route(plain, CAMERA) == fastest(plain, CAMERA)


def test_the_stand_in_is_a_gpu_that_says_what_it_is(standin: Node) -> None:
    board = json.loads(standin.run("devices", "--json").stdout)
    gpu = next(device for device in board["devices"] if device["id"] == "gpu")
    assert gpu["kind"] == "gpu" and gpu["note"].startswith("software: ")
    assert {"name": "opencl", "formats": ["npu"]}.items() <= next(
        backend for backend in gpu["backends"] if backend["name"] == "opencl"
    ).items()
    assert "on the CPU's cores" in standin.run("devices").stdout


def test_a_lost_gpu_is_bridged_by_the_cpu_and_taken_back(it: Stage, standin: Node, fault: ClFault) -> None:
    deploy(it, standin, f"{depthwise.NAME}@1.0.0")
    assert route(standin, depthwise.NAME) == ("gpu", "opencl")
    before = (standin.model(depthwise.NAME) or {})["pid"]
    with Steady(standin.port, depthwise.NAME, depthwise.infer_body(), 0.05) as client:
        wait_until("answers", more(client, 3))
        fault.lose_device()
        wait_until("the CPU", lambda: route(standin, depthwise.NAME) == ("cpu", "program"))
        wait_until("answers of the CPU", more(client, client.statuses[200] + 3))
        assert "gpu is lost" in standin.run("status").stdout
        fault.end()
        wait_until("the GPU", lambda: route(standin, depthwise.NAME) == ("gpu", "opencl"), 60)
        wait_until("answers of the GPU", more(client, client.statuses[200] + 3))
    assert set(client.statuses) <= {200, 503} and client.broken == 0, client.statuses
    assert client.retry_after <= {"1"}
    assert (standin.model(depthwise.NAME) or {})["pid"] not in (None, before)
    assert "gpu is lost" not in standin.run("status").stdout


def more(client: Steady, count: int) -> Callable[[], bool]:
    return lambda: client.statuses[200] > count


def test_a_gpu_without_memory_is_said_with_sizes(it: Stage, standin: Node, fault: ClFault) -> None:
    fault.begin(f"clCreateBuffer {MEM_OBJECT_ALLOCATION_FAILURE} 4096")
    deploy(it, standin, f"{CAMERA}@1.0.0")
    device, _ = route(standin, CAMERA) or ("", "")
    assert device == "cpu"
    reason = verdict(standin, CAMERA, "gpu", "opencl")["reason"]
    assert "OutOfDeviceMemory" in reason and re.search(r"[0-9.]+ MB", reason), reason


def test_kernels_that_do_not_build_leave_a_log(it: Stage, standin: Node, fault: ClFault) -> None:
    fault.begin(f"clBuildProgram {BUILD_PROGRAM_FAILURE}")
    deploy(it, standin, "digits@1.0.0")
    device, _ = route(standin, "digits") or ("", "")
    assert device == "cpu"
    reason = verdict(standin, "digits", "gpu", "opencl")["reason"]
    assert "KernelBuildFailed" in reason and "does not compile the kernels" in reason, reason
    log = re.search(r"log is in (\S+\.log)", reason)
    assert log is not None and Path(log[1]).is_file(), reason


def test_without_a_driver_there_is_no_gpu_and_devices_says_why(
    it: Stage, fault: ClFault, tmp_path: Path
) -> None:
    (tmp_path / "gone.icd").write_text("/nowhere/libgone.so\n")
    node = it.node("nothing", board="local:software-gpu", mqtt=False)
    fault.begin(f"clGetPlatformIDs {PLATFORM_NOT_FOUND}")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**fault.environment, "OCL_ICD_VENDORS": str(tmp_path)}.items():
            patch.setenv(name, value)
        board = json.loads(node.run("devices", "--json").stdout)
    fault.end()
    assert "opencl" not in [backend["name"] for device in board["devices"] for backend in device["backends"]]
    [why] = [problem for problem in board["problems"] if problem.startswith("gpu: opencl: ")]
    assert "libgone.so cannot be found" in why
