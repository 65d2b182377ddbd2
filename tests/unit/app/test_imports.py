"""The resident daemon's memory: what it must never import."""

from __future__ import annotations

import subprocess
import sys

HEAVY = (
    "numpy",
    "orjson",
    "onnx",
    "onnxruntime",
    "ai_edge_litert",
    "tflite_runtime",
    "sqlite_utils",
    "matplotlib",
    "rich",
)


def test_the_daemon_imports_no_runtime_and_no_tool_library() -> None:
    code = f"import sys, agent.app.daemon; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
