"""What goes wrong on an OpenCL device: whose fault it is, and whether the engine lives on."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyopencl as cl
import pytest

from agent.devices.opencl.engine import OpenClEngine
from agent.devices.opencl.failures import check_memory, classify, named, room_on
from agent.devices.opencl.platforms import ClDevice
from agent.devices.program import self_test
from agent.errors import DeviceLost, InferenceError, OutOfDeviceMemory
from tests.system.cl_fault import ClFault

ROOT = Path(__file__).parents[4]


@pytest.mark.parametrize(
    ("code", "cpu", "gpu", "allocating"),
    [
        (-2, InferenceError, DeviceLost, DeviceLost),  # DEVICE_NOT_AVAILABLE
        (-4, OutOfDeviceMemory, OutOfDeviceMemory, OutOfDeviceMemory),  # MEM_OBJECT_ALLOCATION_FAILURE
        (-5, InferenceError, DeviceLost, OutOfDeviceMemory),  # OUT_OF_RESOURCES
        (-6, InferenceError, InferenceError, InferenceError),  # OUT_OF_HOST_MEMORY
        (-14, InferenceError, DeviceLost, InferenceError),  # EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST
        (-30, InferenceError, InferenceError, InferenceError),  # INVALID_VALUE
        (-36, InferenceError, DeviceLost, DeviceLost),  # INVALID_COMMAND_QUEUE
        (-61, OutOfDeviceMemory, OutOfDeviceMemory, OutOfDeviceMemory),  # INVALID_BUFFER_SIZE
        (-9999, InferenceError, DeviceLost, DeviceLost),  # NVIDIA's
    ],
)
def test_what_a_status_code_means(
    code: int, cpu: type[Exception], gpu: type[Exception], allocating: type[Exception]
) -> None:
    assert classify(code, "cpu", allocating=False) is cpu
    assert classify(code, "cpu", allocating=True) is (OutOfDeviceMemory if code in (-5, -6) else cpu)
    assert classify(code, "gpu", allocating=False) is gpu
    assert classify(code, "gpu", allocating=True) is allocating
    assert classify(code, "accelerator", allocating=True) is allocating


def test_an_error_of_the_driver_is_named_with_the_call(cpu: ClDevice, context: Any) -> None:
    with (
        pytest.raises(
            InferenceError, match=r"failed \(create_buffer says INVALID_VALUE\); open the model again"
        ),
        named(cpu, allocating=True),
    ):
        cl.Buffer(context, 1 << 60, 4)
    with (
        pytest.raises(
            OutOfDeviceMemory,
            match=r"no room for the program, which needs 3\.0 MB; it has [\d.]+ MB .* serving\.worker_mem",
        ),
        named(cpu, allocating=True, needed=3_000_000),
    ):
        cl.Buffer(context, cl.mem_flags.READ_WRITE, cpu.max_alloc_bytes * 2)


def test_other_errors_stay_what_they_are(cpu: ClDevice) -> None:
    with pytest.raises(ZeroDivisionError), named(cpu, allocating=False):
        _ = 1 / 0


def test_a_program_that_cannot_fit_is_refused_with_sizes(cpu: ClDevice) -> None:
    small = replace(cpu, memory_bytes=3000)
    with pytest.raises(
        OutOfDeviceMemory, match=r"needs [\d.]+ MB of memory on .* which has 0\.0 MB; use a device"
    ):
        self_test(lambda program: OpenClEngine(program, small, 1))
    bits = replace(cpu, max_alloc_bytes=100)
    with pytest.raises(OutOfDeviceMemory, match=r"needs a buffer of [\d.]+ MB on .* gives 0\.0 MB at most"):
        self_test(lambda program: OpenClEngine(program, bits, 1))
    check_memory(cpu.memory_bytes, cpu.max_alloc_bytes, cpu, cpu.memory_bytes)
    with pytest.raises(OutOfDeviceMemory, match=r"needs 3\.0 MB .* may have 2\.0 MB more; raise serving"):
        check_memory(3_000_000, 1, cpu, 2_000_000)


def test_a_cpu_has_what_the_process_may_still_have(
    cpu: ClDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = tmp_path / "status"
    status.write_text("VmPeak:\t  999 kB\nVmData:\t  2048 kB\n")
    for limit_mb, room in ((10, 8 << 20), (1, 0), (1 << 40, cpu.memory_bytes)):
        limit = limit_mb << 20
        monkeypatch.setattr(resource, "getrlimit", lambda which, limit=limit: (limit, limit))
        assert room_on(cpu, status) == room
        assert room_on(replace(cpu, kind="gpu"), status) == cpu.memory_bytes
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY,) * 2)
    assert room_on(cpu, status) == cpu.memory_bytes


# -- in a process whose OpenCL fails on demand -------------------------------------------------------------------------


SCRIPT = """
import json, sys
from dataclasses import replace
from agent.devices.opencl.engine import OpenClEngine
from agent.devices.opencl.platforms import ClDevice, find_devices
from agent.devices.program import FunctionalEngine
from tests.unit.overlay.test_overlap import chained, negate, samples

def tried(do):
    try:
        return do()
    except Exception as error:
        return [type(error).__name__, str(error)]

made, given = chained(1), samples(1, 40)
wanted = [each["y"].tolist() for each in FunctionalEngine(made).execute(given, negate).outputs]
cpu = next(device for device in find_devices()[0] if device.runtime.startswith("PoCL "))
device = replace(cpu, kind=sys.argv[1])
print(json.dumps("ready"), flush=True)
engine = None
for line in sys.stdin:
    if line.strip() == "open":
        engine = tried(lambda: OpenClEngine(made, device, 2))
        answer = "ok" if isinstance(engine, OpenClEngine) else engine
    else:
        done = tried(lambda: engine.execute(given, negate).outputs)
        answer = done if isinstance(done[0], str) else "ok" if [e["y"].tolist() for e in done] == wanted else "wrong"
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture(scope="module")
def fault(tmp_path_factory: pytest.TempPathFactory) -> ClFault:
    return ClFault(tmp_path_factory.mktemp("fault"))


class Engine:
    """One in a process of its own."""

    def __init__(self, fault: ClFault, kind: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, kind],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
            env={**os.environ, **fault.environment},
        )  # fmt: skip
        assert self._answer() == "ready"

    def ask(self, what: str) -> Any:
        """ "ok", or an error's name and text."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> int:
        self._process.communicate(timeout=30)
        return self._process.returncode

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


def test_a_lost_gpu_stays_lost_for_the_engine_that_used_it(fault: ClFault) -> None:
    engine = Engine(fault, "gpu")
    try:
        for call in ("clEnqueueNDRangeKernel -5", "clWaitForEvents -14", "clEnqueueNDRangeKernel -9999"):
            assert engine.ask("open") == "ok"
            assert engine.ask("run") == "ok"
            fault.begin(call)
            name, text = engine.ask("run")
            assert name == "DeviceLost" and "is lost (cl" in text and "dmesg" in text
            fault.end()
            assert engine.ask("run") == [name, text]
        fault.lose_device()
        assert engine.ask("open")[0] == "DeviceLost"
        fault.begin("clBuildProgram -2")
        assert engine.ask("open")[0] == "DeviceLost"
    finally:
        fault.end()
        assert engine.close() == 0


def test_a_cpu_is_never_lost_and_runs_again(fault: ClFault) -> None:
    engine = Engine(fault, "cpu")
    try:
        assert engine.ask("open") == "ok"
        for call in ("clEnqueueNDRangeKernel -5", "clWaitForEvents -14", "clEnqueueNDRangeKernel -2"):
            fault.begin(call)
            name, text = engine.ask("run")
            assert name == "InferenceError" and "open the model again" in text
            fault.end()
            assert engine.ask("run") == "ok"
        fault.lose_device()
        assert engine.ask("open")[0] == "InferenceError"
    finally:
        fault.end()
        assert engine.close() == 0


LIMITED = """
import resource, sys
import numpy as np
from agent.devices.opencl.engine import OpenClEngine
from agent.devices.opencl.platforms import find_devices
from agent.errors import OutOfDeviceMemory
from tests.unit.overlay.handmade import NPU, conv, program, tensor
from tests.unit.devices.opencl.layers import segment_of

def made(side):
    source = tensor("x", 8, side, side)
    layer, target = conv(1, source, 32, (3, 3), pads=(1, 1, 1, 1))
    return program(NPU, segment_of([layer], [source], [target]))

cpu = next(device for device in find_devices()[0] if device.runtime.startswith("PoCL "))
OpenClEngine(made(8), cpu, 1).close()
with open("/proc/self/status") as status:
    held = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData"))
limit = held + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    engine = OpenClEngine(made(512), cpu, 1)
    zeros = np.zeros((1, 8, 512, 512), np.int8)
    for _ in range(2):
        engine.execute([{"x": zeros}] * 6, None)
    print("ok")
except OutOfDeviceMemory as error:
    print(error)
"""


@pytest.mark.parametrize(("more", "said"), [(200, "ok"), (20, "raise serving.worker_memory_mb")])
def test_a_cpus_driver_is_not_asked_for_more_than_the_process_may_have(more: int, said: str) -> None:
    command = [sys.executable, "-c", LIMITED, str(more << 20)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert said in done.stdout, (done.returncode, done.stderr)


def test_where_memory_is_short_batches_go_in_smaller_chunks_and_not_at_all_without_any(
    fault: ClFault,
) -> None:
    engine = Engine(fault, "gpu")
    try:
        assert engine.ask("open") == "ok"
        fault.begin("clCreateBuffer -4 500")  # what a chunk of several samples needs, and one does not
        assert engine.ask("run") == "ok"
        fault.begin("clCreateBuffer -4")
        assert engine.ask("open")[0] == "OutOfDeviceMemory"
        fault.end()
        assert engine.ask("open") == "ok"
        fault.begin("clCreateBuffer -4 10")
        name, text = engine.ask("run")
        assert name == "OutOfDeviceMemory" and "which needs" in text and "MB in all" in text
        fault.end()
        assert engine.ask("run") == "ok"  # nothing is lost but time
        fault.begin("clEnqueueNDRangeKernel -4")
        assert engine.ask("run")[0] == "OutOfDeviceMemory"
        fault.begin("clCreateBuffer -4 10")
        assert engine.ask("run")[0] == "OutOfDeviceMemory"  # what it had was given back
        fault.end()
        assert engine.ask("run") == "ok"
    finally:
        fault.end()
        assert engine.close() == 0
