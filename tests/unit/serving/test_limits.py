"""Limits of a worker: which failures are for want of memory, and what is said of them."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from agent.errors import InferenceError, OutOfDeviceMemory
from agent.serving.processes.limits import memory_text, out_of_memory


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "want"),
    [
        (MemoryError(), True),
        (caused(InferenceError("LiteRT failed: no memory"), MemoryError("no memory")), True),
        (
            InferenceError("ONNX Runtime failed: Failed to allocate memory for requested buffer of size 8"),
            True,
        ),
        (InferenceError("ONNX Runtime failed: std::bad_alloc"), True),
        (RuntimeError("can't start new thread"), True),
        (OutOfDeviceMemory("RTX 4090: Failed to allocate memory for requested buffer of size 8"), False),
        (InferenceError("ONNX Runtime failed: index out of bounds"), False),
        (caused(InferenceError("failed"), ValueError("no")), False),
    ],
)
def test_which_errors_are_for_want_of_memory(error: Exception, want: bool) -> None:
    assert out_of_memory(error) is want


def test_the_text_names_the_limit_and_the_key() -> None:
    text = memory_text(MemoryError("64 MiB wanted"), 128)
    assert "128 MiB" in text and "serving.worker_memory_mb" in text and "64 MiB wanted" in text
    assert "serving.worker_memory_mb" not in memory_text(MemoryError(), 0)


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_confined_process_dumps_no_core_and_goes_before_the_daemon() -> None:
    code = (
        "import resource; from agent.serving.processes.limits import confine; confine();"
        "print(resource.getrlimit(resource.RLIMIT_CORE), open('/proc/self/oom_score_adj').read())"
    )
    ours = int(Path("/proc/self/oom_score_adj").read_text())
    assert run(code) == "(0, 0) 500" and ours < 500


def test_memory_is_limited_for_good() -> None:
    code = (
        "import resource; from agent.serving.processes.limits import limit_memory; limit_memory(0);"
        "print(resource.getrlimit(resource.RLIMIT_DATA)); limit_memory(100);"
        "print(resource.getrlimit(resource.RLIMIT_DATA));"
        "\\ntry: bytearray(200 << 20)\\nexcept MemoryError: print('refused')"
    ).replace("\\n", "\n")
    before, after, refused = run(code).splitlines()
    assert before == str(resource.getrlimit(resource.RLIMIT_DATA))
    assert (after, refused) == (str((100 << 20, 100 << 20)), "refused")
